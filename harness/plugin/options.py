"""The command line's options, the ini option of each, and the settings that result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from harness.errors import ResultError
from harness.hypervisors.base import BOOT_PROTOCOLS, DEFAULT_ROOT, NETWORKS, ROOTS, SSH_TRANSPORTS
from harness.urls import is_url

if TYPE_CHECKING:
    from harness.results.remote import RemoteStore

KEEP = ("no", "failed", "always")
GATE = ("off", "report", "fail")
PROFILES = ("short", "full")
GATE_WITHOUT_BASELINE = (
    "--virt-gate=fail requires --virt-baseline=RUN\nhint: name the run to compare with"
)


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
    """One option. Its ini name is the flag without leading dashes, with underscores."""

    flag: str
    default: str
    metavar: str
    help: str
    read: Callable[[str], Any] = str
    many: bool = False  # may be given several times
    is_switch: bool = False  # takes no value

    @property
    def ini(self) -> str:
        return self.flag.lstrip("-").replace("-", "_")

    @property
    def dest(self) -> str:
        # Other plugins use names such as "host" in the options' namespace.
        return f"harness_{self.ini}"


OPTIONS = (
    Option(
        "--hypervisor",
        "auto",
        "NAME",
        "run guests on this hypervisor: auto, kvm, qemu, qemu-q35, native (a container of the "
        "guest image), or one of another plugin; with several, every test runs on each "
        "(default: auto)",
        many=True,
    ),
    Option(
        "--virt-host",
        "auto",
        "NAME",
        "run the hypervisor on this host: auto (this machine's KVM, else the emulated host), "
        "local, emulated, ssh://user@name (default: auto)",
    ),
    Option("--guest-image", "", "DIR", "boot this image instead of the built one"),
    Option(
        "--guest-kernel", "", "FILE", "boot this kernel (vmlinux or bzImage) instead of the image's"
    ),
    Option(
        "--guest-boot",
        "auto",
        "{auto,pvh,linux64,linux16}",
        "enter the kernel by pvh (its PVH note; a bzImage is unpacked first), linux64 (Linux's "
        "64-bit boot protocol), linux16 (the same in real mode), or auto (the hypervisor's choice) "
        "(default: auto)",
        _one_of(BOOT_PROTOCOLS),
    ),
    Option("--guest-vcpus", "1", "N", "give a guest this number of vCPUs (default: 1)", _count),
    Option(
        "--guest-memory", "256", "MIB", "give a guest this memory, in MiB (default: 256)", _count
    ),
    Option(
        "--guest-boot-timeout",
        "60",
        "SECONDS",
        "fail a guest that is not ready by SSH within this time (default: 60)",
        _seconds,
    ),
    Option(
        "--guest-network",
        "auto",
        "{auto,bridge,passt,none}",
        "connect a guest to the session's private bridge, to the host's network by passt, or to "
        "none (default: auto, the bridge where the host allows it)",
        _one_of(NETWORKS),
    ),
    Option(
        "--guest-ssh",
        "auto",
        "{auto,vsock,network}",
        "connect by SSH over vsock or the network (default: auto, vsock where the host has it)",
        _one_of(SSH_TRANSPORTS),
    ),
    Option(
        "--guest-root",
        DEFAULT_ROOT,
        "{disk,pmem,initramfs}",
        "put a guest's root on a virtio disk, on persistent memory that maps the image, or on its "
        f"initramfs alone (default: {DEFAULT_ROOT})",
        _one_of(ROOTS),
    ),
    Option(
        "--guest-keep",
        "no",
        "{no,failed,always}",
        "keep the guests of failed (or all) tests running at the end, and wait at the terminal "
        "(default: no)",
        _one_of(KEEP),
    ),
    Option(
        "--guest-artifacts",
        "",
        "DIR",
        "keep every guest's console in this folder (default: those of failed tests, "
        "with the results)",
    ),
    Option(
        "--virt-kvm-unit-tests",
        "",
        "DIR",
        "run the kvm-unit-tests built in this folder (its unittests.cfg, else every .flat file)",
    ),
    Option(
        "--virt-profile",
        "short",
        "{short,full}",
        "measure for minutes (short) or for hours (full) (default: short)",
        _one_of(PROFILES),
    ),
    Option(
        "--virt-order-seed",
        "",
        "N",
        "draw the order of several hypervisors by this seed (default: they alternate, A B, then "
        "B A)",
        _seed,
    ),
    Option(
        "--virt-results",
        "results",
        "DIR",
        "write samples and reports to this folder, or to a URL of fsspec (sftp://, s3://, ...) "
        "with a mirror on this machine (default: results)",
    ),
    Option(
        "--virt-baseline",
        "",
        "RUN",
        "compare with this run of the results at the end: its name, a date, a commit (or a name "
        "that git knows), or latest",
    ),
    Option(
        "--virt-gate",
        "report",
        "{off,report,fail}",
        "ignore, report, or fail the session for a figure that regressed against the baseline "
        "(default: report)",
        _one_of(GATE),
    ),
    Option(
        "--virt-report",
        "",
        "FILE",
        "write the HTML report to this file (default: with the results)",
    ),
    Option("--virt-no-report", "", "", "write no HTML report", is_switch=True),
)
_BY_INI = {option.ini: option for option in OPTIONS}


@dataclass(frozen=True)
class Settings:
    """The values of the options and the ini file.

    hypervisors: one or more names; a name may repeat; "auto" is alone. image, kernel:
    None for the built ones. boot: one of BOOT_PROTOCOLS. memory: MiB. boot_timeout: seconds.
    artifacts: None for the results' own directory. results: the mirror of a remote store.
    kvm_unit_tests: None for none. baseline: "" for none. gate: one of GATE. gate_typed:
    the command line has --virt-gate. profile: one of PROFILES. order_seed: None to alternate.
    report: None for the results' own directory. no_report: write no HTML report.
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
    gate_typed: bool
    profile: str
    order_seed: int | None
    report: Path | None
    no_report: bool

    @property
    def hypervisor(self) -> str:
        """All names, for people."""
        return ", ".join(self.hypervisors)

    @property
    def targets(self) -> dict[str, str]:
        """The hypervisors' names by label. The label of one that is given again, to compare it
        with itself, is "kvm-2"."""
        targets: dict[str, str] = {}
        for place, name in enumerate(self.hypervisors):
            before = self.hypervisors[:place].count(name)
            targets[f"{name}-{before + 1}" if before else name] = name
        return targets

    @property
    def explicit(self) -> bool:
        """Whether a hypervisor or a host was named. Then it must be usable."""
        return self.hypervisors != ("auto",) or self.host != "auto"


def add(parser: pytest.Parser) -> None:
    """Declare all options in one group, and the ini option of each."""
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
    """Read options and ini file. Raises pytest.UsageError for an invalid value."""
    hypervisors = tuple(_values(config, "hypervisor"))
    if "auto" in hypervisors and len(hypervisors) > 1:
        raise pytest.UsageError(
            f"--hypervisor={' --hypervisor='.join(hypervisors)}: auto cannot be combined with "
            "others\nhint: name the hypervisors to compare"
        )
    baseline, gate = _value(config, "virt_baseline"), _value(config, "virt_gate")
    gate_typed = config.getoption(_BY_INI["virt_gate"].dest) is not None
    if gate == "fail" and not baseline and gate_typed:
        raise pytest.UsageError(GATE_WITHOUT_BASELINE)
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
        gate_typed=gate_typed,
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
    if given == []:
        raise pytest.UsageError(
            f"{source}: it has no value\n"
            f"hint: write {option.ini} = {option.default}, or remove the line"
        )
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
    from harness.results.remote import RemoteStore  # noqa: PLC0415 - heavy: only a URL needs it

    try:
        return RemoteStore(url)
    except ResultError as error:
        raise pytest.UsageError(f"--virt-results: {error}") from error


def _path(config: pytest.Config, ini: str) -> Path | None:
    text = _value(config, ini)
    if not text:
        return None
    # As in pytest: relative to the current folder on the command line, else to the root folder.
    typed = config.getoption(_BY_INI[ini].dest) is not None
    base = config.invocation_params.dir if typed else config.rootpath
    return Path(base, Path(text).expanduser())
