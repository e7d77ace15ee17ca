"""Each of kvm-unit-tests' tests as a pytest item: --virt-kvm-unit-tests=DIR."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from harness import scratch
from harness.errors import HarnessError, hide_frames
from harness.hypervisors.base import End, PayloadSpec, Segment
from harness.kvm_unit_tests import catalogue, multiboot, requirements
from harness.kvm_unit_tests.catalogue import Entry

if TYPE_CHECKING:
    from harness.guest.payload import PayloadFactory, PayloadGuest
    from harness.hosts.base import Host

__tracebackhide__ = hide_frames
ENVIRONMENT = "KVM_UNIT_TESTS_ENV"  # a file with what their getenv() finds
_PASS, _SKIP, _ABORT = 0, 77, 127
_FOR_EVER = 7 * 86400.0
_REPORT = re.compile(r"(?:PASS|FAIL|SKIP|XPASS|XFAIL|INFO|ABORT|SUMMARY): ")
_WRONG = re.compile(r"(?:FAIL|XPASS|ABORT): ")
_SUMMARY = "SUMMARY: "
_MEASURED = re.compile(r"([a-z][\w+.-]*) (\d+)")  # what vmexit.flat prints: cycles
_OURS = ("parametrize", "skip", "skipif", "usefixtures", "xfail")  # marks that mean something


class RecordSample(Protocol):
    """The part of the fixture `record_sample` that this module calls."""

    def __call__(self, metric: str, value: float, unit: str, better: str) -> None:
        """Record one measurement."""


class Plugin:
    """Registered where the option is given."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        """Adds the folder's tests to what is collected; alone, if nothing else was named.

        Raises pytest.UsageError when there are none.
        """
        listed, self.folder = catalogue.find(_absolute(folder))
        self.files = [listed] if listed else sorted(self.folder.glob("*.flat"))
        if not self.files:
            raise pytest.UsageError(
                f"--virt-kvm-unit-tests={folder}: it has no {catalogue.LIST} and no .flat file; "
                "name the folder that kvm-unit-tests were built in"
            )
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = []
        base = config.invocation_params.dir
        named = {_absolute(base / one.partition("::")[0]) for one in config.args}
        config.args += [str(file) for file in self.files if file not in named]

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> Any:
        if file_path not in self.files:
            return None
        # pytest has no name of its own for a file outside of its root
        name = os.path.relpath(file_path, parent.config.rootpath)
        return UnitTests.from_parent(parent, path=file_path, nodeid=name, folder=self.folder)


def _absolute(path: Path) -> Path:
    """Without ".." and with its links as they are: how pytest names what it collects."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


class UnitTests(pytest.File):
    """A list of tests, or one test's file."""

    def __init__(self, *, folder: Path, **more: Any) -> None:
        super().__init__(**more)
        self.folder = folder

    def collect(self) -> Iterator[pytest.Item]:
        if self.path.name != catalogue.LIST:
            yield unit_test(self, Entry(self.path.stem, 1, self.path))
            return
        try:
            entries = catalogue.read(self.path.read_text("utf-8"), self.folder)
        except (OSError, ValueError) as error:
            raise self.CollectError(f"{self.path}: {error}") from None
        for entry in entries:
            yield unit_test(self, entry)


def unit_test(parent: UnitTests, entry: Entry) -> UnitTest:
    """The item of one test: a function of ours, so that it has fixtures as any other."""

    def run(payload: PayloadFactory) -> None:
        item.run(payload)

    def measure(payload: PayloadFactory, record_sample: RecordSample) -> None:
        item.run(payload, record_sample)

    measures = entry.file.stem == "vmexit"
    item: UnitTest = UnitTest.from_parent(
        parent, name=entry.name, callobj=measure if measures else run
    )
    item.entry = entry
    for group in set(entry.groups).difference(_OURS):
        line = f"{group}: a group of kvm-unit-tests"
        if line not in parent.config.getini("markers"):
            parent.config.addinivalue_line("markers", line)
        item.add_marker(group)
    return item


class UnitTest(pytest.Function):
    """One test. entry: what the list says of it."""

    entry: Entry

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.entry.line - 1, self.name

    def run(self, payload: PayloadFactory, record: RecordSample | None = None) -> None:
        """Run it to its end, and fail or skip as that says."""
        host = payload.hypervisor.host
        try:
            machine = requirements.machine(
                self.entry, host.facts.cpus, built_for(self.entry.file.parent)
            )
        except requirements.Unsupported as error:
            pytest.skip(str(error))
        self._skip_by_choice()
        _check(self.entry.checks, host)
        guest = self._start(payload, machine)
        timeout = min(self.entry.timeout or _FOR_EVER, _FOR_EVER)
        try:
            end = guest.wait_end(timeout)
        except HarnessError:
            if guest.ended.is_set():
                raise
            guest.stop()
            _tell(self, guest)
            pytest.fail(f"timeout: it did not end within {timeout:g} s", pytrace=False)
        _tell(self, guest)
        if record is not None:
            _record(record, guest.console.tail(len(guest.console)))
        _judge(end, guest.console.tail(len(guest.console)))

    def _skip_by_choice(self) -> None:
        option = self.config.option
        chosen = option.markexpr or option.keyword or any("::" in one for one in self.config.args)
        if "nodefault" in self.entry.groups and not chosen:
            pytest.skip("it is not run by default: name it, or choose it by -m or -k")

    def _start(self, payload: PayloadFactory, machine: requirements.Machine) -> PayloadGuest:
        file = self.entry.file
        try:
            data = file.read_bytes()
        except OSError as error:
            pytest.fail(f"{file}: {error.strerror}; build kvm-unit-tests first", pytrace=False)
        cmdline = f"{file.name} {machine.arguments}".strip()
        environment = environment_of(payload.hypervisor.host)
        loaded = multiboot.load(data, cmdline, machine.memory, environment)
        with scratch.directory() as folder:
            place, told = loaded.told
            (folder / "information").write_bytes(told)
            segments = [Segment(gpa, file, offset, size) for gpa, offset, size in loaded.segments]
            segments.append(Segment(place, folder / "information", 0, len(told)))
            spec = PayloadSpec(
                name=self.name,
                segments=tuple(segments),
                mode="protected",
                entry=loaded.entry,
                registers=loaded.registers,
                vcpus=machine.vcpus,
                memory=machine.memory,
                testdev=True,
            )
            return payload.start(spec)


def built_for(folder: Path) -> str:
    """The architecture that config.mak says the tests were built for."""
    for place in (folder, folder.parent):
        try:
            found = re.search(r"^ARCH=(\w+)", (place / "config.mak").read_text(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return found[1]
    return "x86_64"


def environment_of(host: Host) -> bytes:
    """What the test's getenv() finds: the file named by KVM_UNIT_TESTS_ENV, else what their own
    scripts say of the accelerator and the host's kernel."""
    if path := os.environ.get(ENVIRONMENT):
        return Path(path).read_bytes()
    release = host.facts.kernel
    version, _, extra = release.partition("-")
    numbers = [*version.split("."), "", "", ""]
    return (
        f"QEMU_ACCEL=kvm\nKERNEL_VERSION_STRING={release}\nKERNEL_VERSION={numbers[0]}\n"
        f"KERNEL_PATCHLEVEL={numbers[1]}\nKERNEL_SUBLEVEL={numbers[2]}\n"
        f"KERNEL_EXTRAVERSION={extra}\n"
    ).encode()


def _check(checks: list[str], host: Host) -> None:
    for check in checks:
        path, _, value = check.partition("=")
        found = host.run(["cat", path], check=False)
        if found.status or found.stdout.strip() != value:
            there = found.stdout.strip() or found.stderr.strip()
            pytest.skip(f"{path} is not {value} on {host.name}: {there}")


def _tell(item: pytest.Item, guest: PayloadGuest) -> None:
    """What it reported becomes a section, shown when it fails, or by -rP."""
    reports = [one for one in guest.console.tail(len(guest.console)) if _REPORT.match(one)]
    if reports:
        item.add_report_section("call", "reports", "\n".join(reports))


def _judge(end: End, lines: list[str]) -> None:
    """Exit status as run_tests.sh takes it: of the value written to the debug exit, QEMU makes
    v << 1 | 1, of which 1 is success."""
    if end.reason != "debug-exit":
        pytest.fail(f"it ended by {end.reason}: {end.detail}".removesuffix(": "), pytrace=False)
    status = (int(end.detail) << 1 | 1) & 0xFF
    status = _PASS if status == 1 else status
    summary = next((one for one in reversed(lines) if one.startswith(_SUMMARY)), "")
    if status == _SKIP:
        skipped = next((one for one in lines if one.startswith("SKIP: ")), "")
        pytest.skip((summary or skipped or "it says so").removeprefix(_SUMMARY))
    if status != _PASS:
        wrong = [one for one in lines if _WRONG.match(one)]
        what = "it aborted" if status == _ABORT else f"exit status {status}"
        pytest.fail("\n".join([what, *wrong, summary]).strip(), pytrace=False)


def _record(record: RecordSample, lines: list[str]) -> None:
    for line in lines:
        if found := _MEASURED.fullmatch(line):
            record(f"kvm_unit_tests.{found[1]}", float(found[2]), "cycles", "lower")
