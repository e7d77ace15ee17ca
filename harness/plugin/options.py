"""The command line's options, each with its twin in the ini file, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from harness.errors import ResultError
from harness.hypervisors.base import BOOT_PROTOCOLS, DEFAULT_ROOT, NETWORKS, ROOTS, SSH_WAYS
from harness.urls import is_url

if TYPE_CHECKING:
    from harness.results.remote import RemoteStore

KEEP = ("no", "failed", "always")
GATE = ("off", "report", "fail")
PROFILES = ("short", "full")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


def _seed(text: str) -> int | None:
    return int(text) if text else None


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError("must be a number of seconds above 0")
    return number


def _one_of(words: Sequence[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text

    return check


@dataclass(frozen=True)
class Option:
    """One option. The ini twin is the flag without its dashes, with underscores."""

    flag: str
    default: str
    metavar: str
    help: str
    read: Callable[[str], Any] = str
    many: bool = False
    is_switch: bool = False  # takes no value

    @property
    def ini(self) -> str:
        return self.flag.lstrip("-").replace("-", "_")

    @property
    def dest(self) -> str:
        # "host" or "results" alone may be another plugin's name in the options' namespace
        return f"harness_{self.ini}"


OPTIONS = (
    Option(
        "--hypervisor",
        "auto",
        "NAME",
        "what runs the guests: auto, kvm, qemu, native (no guest: a container of the same image), "
        "or another by entry point; given more than once, every test runs on each, in turn "
        "(default: auto)",
        many=True,
    ),
    Option(
        "--virt-host",
        "auto",
        "NAME",
        "where: auto (this machine's KVM, else the emulated host), local, emulated, "
        "ssh://user@name (default: auto)",
    ),
    Option("--guest-image", "", "DIR", "boot this image instead of the built one"),
    Option("--guest-kernel", "", "FILE", "boot this kernel (vmlinux or bzImage) instead"),
    Option(
        "--guest-boot",
        "auto",
        "{auto,pvh,linux64,linux16}",
        "how its kernel is entered: pvh (its note; a bzImage is unpacked first), linux64 (Linux's "
        "64-bit boot protocol, the file as it is), linux16 (the same in real mode), auto (the "
        "hypervisor's choice) (default: auto)",
        _one_of(BOOT_PROTOCOLS),
    ),
    Option("--guest-vcpus", "1", "N", "vCPUs of a guest (default: 1)", _count),
    Option("--guest-memory", "256", "MIB", "memory of a guest in MiB (default: 256)", _count),
    Option(
        "--guest-boot-timeout",
        "60",
        "SECONDS",
        "a guest must be ready by SSH within this (default: 60)",
        _seconds,
    ),
    Option(
        "--guest-network",
        "auto",
        "{auto,bridge,passt,none}",
        "a guest's network: the session's private one, the host's by passt, or none (default: "
        "auto, the private one where the host allows it)",
        _one_of(NETWORKS),
    ),
    Option(
        "--guest-ssh",
        "auto",
        "{auto,vsock,network}",
        "the way into a guest (default: auto, vsock where the host has it)",
        _one_of(SSH_WAYS),
    ),
    Option(
        "--guest-root",
        DEFAULT_ROOT,
        "{disk,pmem,initramfs}",
        "a guest's root: a virtio disk, persistent memory that maps the image, or its initramfs "
        f"alone (default: {DEFAULT_ROOT})",
        _one_of(ROOTS),
    ),
    Option(
        "--guest-keep",
        "no",
        "{no,failed,always}",
        "at the end wait at the terminal with the guests of failed (or all) tests alive "
        "(default: no)",
        _one_of(KEEP),
    ),
    Option(
        "--guest-artifacts",
        "",
        "DIR",
        "keep every guest's console here (default: those of failed tests, with the results)",
    ),
    Option(
        "--virt-kvm-unit-tests",
        "",
        "DIR",
        "run the kvm-unit-tests that were built there (its unittests.cfg, else every .flat file)",
    ),
    Option(
        "--virt-profile",
        "short",
        "{short,full}",
        "how much the suites measure: short (minutes), full (hours) (default: short)",
        _one_of(PROFILES),
    ),
    Option(
        "--virt-order-seed",
        "",
        "N",
        "which of several hypervisors comes first in a turn is drawn by this seed (default: they "
        "take turns, A B, then B A)",
        _seed,
    ),
    Option(
        "--virt-results",
        "results",
        "DIR",
        "where samples and reports go: a directory, or a URL that fsspec understands (sftp://, "
        "s3://, ...), of which this machine has a mirror (default: results)",
    ),
    Option(
        "--virt-baseline",
        "",
        "RUN",
        "compare with this run of the results at the end: its name, a date, a commit, what git "
        "knows a commit by, or latest (the newest that is there now)",
    ),
    Option(
        "--virt-gate",
        "report",
        "{off,report,fail}",
        "what a figure that regressed against the baseline does: nothing, a line, or a failed "
        "session (default: report)",
        _one_of(GATE),
    ),
    Option(
        "--virt-report",
        "",
        "FILE",
        "where the HTML report goes (default: with the results)",
    ),
    Option("--virt-no-report", "", "", "write no HTML report", is_switch=True),
)
_BY_INI = {option.ini: option for option in OPTIONS}


@dataclass(frozen=True)
class Settings:
    """What the options and the ini file come to.

    hypervisors: one or more names, of which one may come again; "auto" is alone. image, kernel:
    None for the built ones. boot: one of BOOT_PROTOCOLS. memory: MiB. boot_timeout: seconds.
    artifacts: None for the results' own directory. results: of a remote store its mirror.
    kvm_unit_tests: None for none. baseline: "" for none. gate: one of GATE. profile: one of
    PROFILES. order_seed: None for turns without chance. report: None for the results' own
    directory. no_report: no HTML is wanted.
    """

    hypervisors: tuple[str, ...]
    host: str
    image: Path | None
    kernel: Path | None
    boot: str
    vcpus: int
    memory: int
    boot_timeout: float
    network: str
    ssh: str
    root: str
    keep: str
    artifacts: Path | None
    results: Path
    remote: RemoteStore | None
    kvm_unit_tests: Path | None
    baseline: str
    gate: str
    profile: str
    order_seed: int | None
    report: Path | None
    no_report: bool

    @property
    def hypervisor(self) -> str:
        """For people: all of them."""
        return ", ".join(self.hypervisors)

    @property
    def targets(self) -> dict[str, str]:
        """What the tests run on: labels, and the hypervisors' names. One that is given again, to
        be compared with itself, is "kvm-2" the second time."""
        targets: dict[str, str] = {}
        for place, name in enumerate(self.hypervisors):
            before = self.hypervisors[:place].count(name)
            targets[f"{name}-{before + 1}" if before else name] = name
        return targets

    @property
    def explicit(self) -> bool:
        """Somebody named a hypervisor or a host, so doing without is no way out."""
        return self.hypervisors != ("auto",) or self.host != "auto"


def add(parser: pytest.Parser) -> None:
    """All options into one group, all twins into the ini file."""
    group = parser.getgroup("harness", "hypervisors and guests (pytest-hypervisor)")
    for option in OPTIONS:
        help_of_ini = f"{option.help}; same as {option.flag}"
        if option.is_switch:
            group.addoption(option.flag, dest=option.dest, action="store_true", help=option.help)
            parser.addini(option.ini, help_of_ini, type="bool", default=False)
            continue
        group.addoption(
            option.flag,
            dest=option.dest,
            default=None,
            metavar=option.metavar,
            help=option.help,
            action="append" if option.many else "store",
        )
        kind: Literal["args", "string"] = "args" if option.many else "string"
        parser.addini(option.ini, help_of_ini, type=kind, default=None)


def settings(config: pytest.Config) -> Settings:
    """Read options and ini file. Raises pytest.UsageError for a value that cannot be."""
    hypervisors = tuple(_values(config, "hypervisor"))
    if "auto" in hypervisors and len(hypervisors) > 1:
        raise pytest.UsageError(
            f"--hypervisor={' --hypervisor='.join(hypervisors)}: auto chooses one by itself; name "
            "those that are to be compared"
        )
    baseline, gate = _value(config, "virt_baseline"), _value(config, "virt_gate")
    if gate == "fail" and not baseline:
        raise pytest.UsageError("--virt-gate=fail requires --virt-baseline=RUN")
    remote = _remote(config)
    return Settings(
        hypervisors=hypervisors,
        host=_value(config, "virt_host"),
        image=_path(config, "guest_image"),
        kernel=_path(config, "guest_kernel"),
        boot=_value(config, "guest_boot"),
        vcpus=_value(config, "guest_vcpus"),
        memory=_value(config, "guest_memory"),
        boot_timeout=_value(config, "guest_boot_timeout"),
        network=_value(config, "guest_network"),
        ssh=_value(config, "guest_ssh"),
        root=_value(config, "guest_root"),
        keep=_value(config, "guest_keep"),
        artifacts=_path(config, "guest_artifacts"),
        results=remote.mirror
        if remote
        else _path(config, "virt_results") or config.rootpath / "results",
        remote=remote,
        kvm_unit_tests=_path(config, "virt_kvm_unit_tests"),
        baseline="" if gate == "off" else baseline,
        gate=gate,
        profile=_value(config, "virt_profile"),
        order_seed=_value(config, "virt_order_seed"),
        report=_path(config, "virt_report"),
        no_report=bool(config.getoption(_BY_INI["virt_no_report"].dest))
        or config.getini("virt_no_report"),
    )


def _values(config: pytest.Config, ini: str) -> list[Any]:
    option = _BY_INI[ini]
    given = config.getoption(option.dest)
    if given is None:
        given, source = config.getini(option.ini), f"{option.ini} in the ini file"
    else:
        source = option.flag
    if given is None:
        given = option.default
    try:
        return [option.read(str(text)) for text in (given if isinstance(given, list) else [given])]
    except ValueError as error:
        raise pytest.UsageError(f"{source}: {given!r}: {error}") from error


def _value(config: pytest.Config, ini: str) -> Any:
    return _values(config, ini)[0]


def _remote(config: pytest.Config) -> RemoteStore | None:
    """The store that --virt-results names, if that is a URL."""
    url = str(_value(config, "virt_results"))
    if not is_url(url):
        return None
    from harness.results.remote import RemoteStore  # noqa: PLC0415 - heavy: only for who names a URL

    try:
        return RemoteStore(url)
    except ResultError as error:
        raise pytest.UsageError(f"--virt-results: {error}") from error


def _path(config: pytest.Config, ini: str) -> Path | None:
    text = _value(config, ini)
    if not text:
        return None
    # As pytest does: the command line counts from where it was typed, the ini file from its place.
    typed = config.getoption(_BY_INI[ini].dest) is not None
    base = config.invocation_params.dir if typed else config.rootpath
    return Path(base, Path(text).expanduser())
