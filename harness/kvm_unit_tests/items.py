"""The tests of kvm-unit-tests as pytest items: --virt-kvm-unit-tests=DIR."""

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
    from harness.results.schema import Better

__tracebackhide__ = hide_frames
SUITE = "kvm_unit_tests"
ENVIRONMENT = "KVM_UNIT_TESTS_ENV"  # names a file with the tests' environment
_PASS, _SKIP, _ABORT = 0, 77, 127
_MAX_TIMEOUT = 7 * 86400.0  # seconds
_REPORT = re.compile(r"(?:PASS|FAIL|SKIP|XPASS|XFAIL|INFO|ABORT|SUMMARY): ")
_FAILURE = re.compile(r"(?:FAIL|XPASS|ABORT): ")
_SUMMARY = "SUMMARY: "
_CYCLES = re.compile(r"([a-z][\w+.-]*) (\d+)")  # a line of vmexit.flat
_PYTEST_MARKS = ("parametrize", "skip", "skipif", "usefixtures", "xfail")


class RecordSample(Protocol):
    """The part of the fixture `record_sample` that this module calls."""

    def __call__(self, metric: str, value: float, unit: str, better: Better) -> None:
        """Record one measurement."""


class KvmUnitTestsPlugin:
    """The pytest plugin of the option --virt-kvm-unit-tests."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        """Collect the folder's tests, in addition to tests that the command line names.

        Raises pytest.UsageError when the folder has none.
        """
        listed, self.folder = catalogue.find_list(_absolute(folder))
        self.files = [listed] if listed else sorted(self.folder.glob("*.flat"))
        if not self.files:
            raise pytest.UsageError(
                f"--virt-kvm-unit-tests={folder}: there is neither a {catalogue.LIST_NAME} nor a "
                ".flat file\nhint: name the folder in which kvm-unit-tests were built"
            )
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = []
        base = config.invocation_params.dir
        explicit = {_absolute(base / one.partition("::")[0]) for one in config.args}
        config.args += [str(file) for file in self.files if file not in explicit]

    def pytest_collect_file(self, file_path: Path, parent: pytest.Collector) -> Any:
        """Collect the list, or a test's file."""
        if file_path not in self.files:
            return None
        # pytest does not name files outside of its root directory
        name = os.path.relpath(file_path, parent.config.rootpath)
        return UnitTestFile.from_parent(parent, path=file_path, nodeid=name, folder=self.folder)


def _absolute(path: Path) -> Path:
    """Make a path absolute without following links, like pytest's own paths."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


class UnitTestFile(pytest.File):
    """A list of tests, or the file of one test."""

    def __init__(self, *, folder: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = folder

    def collect(self) -> Iterator[pytest.Item]:
        """Create an item for each test."""
        if self.path.name != catalogue.LIST_NAME:
            yield create_item(self, Entry(self.path.stem, 1, self.path))
            return
        try:
            entries = catalogue.parse_list(self.path.read_text("utf-8"), self.folder)
        except (OSError, UnicodeError, HarnessError) as error:
            raise self.CollectError(f"{self.path}: {error}") from None
        for entry in entries:
            yield create_item(self, entry)


def create_item(parent: UnitTestFile, entry: Entry) -> UnitTest:
    """Create the item of one test. It is a Function, so that it can use fixtures."""

    def run(payload: PayloadFactory) -> None:
        item.run(payload)

    def measure(payload: PayloadFactory, record_sample: RecordSample) -> None:
        item.run(payload, record_sample)

    has_cycles = entry.file.stem == "vmexit"
    item: UnitTest = UnitTest.from_parent(
        parent, name=entry.name, callobj=measure if has_cycles else run
    )
    item.entry = entry
    for group in set(entry.groups).difference(_PYTEST_MARKS):
        marker = f"{group}: a group of kvm-unit-tests"
        if marker not in parent.config.getini("markers"):
            parent.config.addinivalue_line("markers", marker)
        item.add_marker(group)
    return item


class UnitTest(pytest.Function):
    """One test. entry: its section of the list."""

    entry: Entry

    @property
    def figure_identity(self) -> tuple[str, str]:
        """See harness.plugin.item_usage. The folder of a build is not part of it."""
        return SUITE, f"kvm-unit-tests::{self.entry.name}"

    def reportinfo(self) -> tuple[Path, int, str]:
        """Path, line from 0, and name for reports."""
        return self.path, self.entry.line - 1, self.name

    def run(self, payload: PayloadFactory, record: RecordSample | None = None) -> None:
        """Run the test to its end and report its outcome. record: records cycles."""
        host = payload.hypervisor.host
        try:
            machine = requirements.machine_config(
                self.entry, host.facts.cpus, built_architecture(self.entry.file.parent)
            )
        except requirements.Unsupported as error:
            pytest.skip(str(error))
        self._skip_nodefault()
        _skip_unless(self.entry.checks, host)
        guest = self._start(payload, machine)
        timeout = min(self.entry.timeout or _MAX_TIMEOUT, _MAX_TIMEOUT)
        try:
            end = guest.wait_end(timeout)
        except HarnessError:
            if guest.ended.is_set():
                raise
            guest.stop()
            _add_reports(self, guest)
            pytest.fail(f"timeout: the test did not end within {timeout:g} s", pytrace=False)
        _add_reports(self, guest)
        if record is not None:
            _record(record, guest.console.tail(len(guest.console)))
        _report_outcome(end, guest.console.tail(len(guest.console)))

    def _skip_nodefault(self) -> None:
        """Skip a test of the group "nodefault" that the command line does not select."""
        option = self.config.option
        selected = option.markexpr or option.keyword or any("::" in arg for arg in self.config.args)
        if "nodefault" in self.entry.groups and not selected:
            pytest.skip("it does not run by default: select it by name, -m or -k")

    def _start(self, payload: PayloadFactory, machine: requirements.MachineConfig) -> PayloadGuest:
        file = self.entry.file
        try:
            data = file.read_bytes()
        except OSError as error:
            pytest.fail(f"{file}: {error.strerror}; build kvm-unit-tests first", pytrace=False)
        cmdline = f"{file.name} {machine.arguments}".strip()
        environment = environment_of(payload.hypervisor.host)
        loaded = multiboot.load(data, cmdline, machine.memory, environment)
        with scratch.directory() as folder:
            address, information = loaded.information
            (folder / "information").write_bytes(information)
            segments = [Segment(gpa, file, offset, size) for gpa, offset, size in loaded.segments]
            segments.append(Segment(address, folder / "information", 0, len(information)))
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


def built_architecture(folder: Path) -> str:
    """The architecture of the build according to config.mak."""
    for candidate in (folder, folder.parent):
        try:
            match = re.search(r"^ARCH=(\w+)", (candidate / "config.mak").read_text(), re.MULTILINE)
        except OSError:
            continue
        if match:
            return match[1]
    return "x86_64"


def environment_of(host: Host) -> bytes:
    """The test's environment variables: the content of the file that KVM_UNIT_TESTS_ENV names.

    Without it, the accelerator and the host's kernel version, as in kvm-unit-tests' scripts.
    """
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


def _skip_unless(checks: list[str], host: Host) -> None:
    """Skip the test unless each "path=value" holds on the host."""
    for check in checks:
        path, _, value = check.partition("=")
        result = host.run(["cat", path], check=False)
        if result.status or result.stdout.strip() != value:
            actual = result.stdout.strip() or result.stderr.strip()
            pytest.skip(f"{path} is not {value} on {host.name}: {actual}")


def _add_reports(item: pytest.Item, guest: PayloadGuest) -> None:
    """Add the test's report lines as a section of the pytest report."""
    reports = [line for line in guest.console.tail(len(guest.console)) if _REPORT.match(line)]
    if reports:
        item.add_report_section("call", "reports", "\n".join(reports))


def _report_outcome(end: End, lines: list[str]) -> None:
    """Pass, skip or fail by the exit status, like run_tests.sh.

    QEMU's exit status for a value v of the debug exit is v << 1 | 1. Status 1 means success.
    """
    if end.reason != "debug-exit":
        pytest.fail(
            f"the test ended by {end.reason}: {end.detail}".removesuffix(": "), pytrace=False
        )
    status = (int(end.detail) << 1 | 1) & 0xFF
    status = _PASS if status == 1 else status
    summary = next((line for line in reversed(lines) if line.startswith(_SUMMARY)), "")
    if status == _SKIP:
        skipped = next((line for line in lines if line.startswith("SKIP: ")), "")
        pytest.skip((summary or skipped or "the test reports a skip").removeprefix(_SUMMARY))
    if status != _PASS:
        failures = [line for line in lines if _FAILURE.match(line)]
        cause = "the test aborted" if status == _ABORT else f"exit status {status}"
        pytest.fail("\n".join([cause, *failures, summary]).strip(), pytrace=False)


def _record(record: RecordSample, lines: list[str]) -> None:
    """Record the cycles that vmexit.flat prints."""
    for line in lines:
        if match := _CYCLES.fullmatch(line):
            record(f"kvm_unit_tests.{match[1]}", float(match[2]), "cycles", "lower")
