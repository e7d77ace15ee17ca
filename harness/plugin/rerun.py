"""Runs a test a second time when a fault of the emulated host's CPU failed it, and reports that.

For tests on an emulated host alone: a test on real hardware never runs a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import pytest

from harness.plugin import pytest_compat
from harness.plugin.session import session_of

# What a guest's failure looks like after QEMU's CPU delivered an interrupt twice (CODE_BUFFER in
# harness/hosts/qemu.py): the guest ends, or it hangs.
EMULATION_FAULT_PATTERNS = (
    "triple-fault: vCPU",
    "Fatal exception in interrupt",
    "did not take its identity",
    "SSHLate",
    # a triple fault of a guest of QEMU's, before its monitor can report it
    "power-off (it ended while it booted)",
    # and after
    "a triple fault, which QEMU does not distinguish",
)


class EmulatedHostState(Protocol):
    """What is_host_fault() needs of a host."""

    @property
    def emulated(self) -> bool: ...
    @property
    def tainted(self) -> bool: ...


def is_host_fault(host: EmulatedHostState | None, errors: Iterable[str]) -> bool:
    """Whether a fault of an emulated host's CPU explains one of a test's errors.

    host: the host that the test ran on. If it is tainted, any failure on it may be such a fault.
    """
    if host is None or not host.emulated:
        return False
    return host.tainted or any(
        pattern in error for error in errors for pattern in EMULATION_FAULT_PATTERNS
    )


def protocol(
    item: pytest.Item,
    nextitem: pytest.Item | None,
    host: Callable[[], EmulatedHostState | None],
    prepare: Callable[[], None],
) -> bool:
    """Run a test, and once more after a fault of its host. For pytest_runtest_protocol.

    host: returns the host that the test ran on. prepare: called before the second attempt.
    """
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    session = session_of(item.config)
    # Fixtures of a wider scope than the test's must survive its first attempt.
    scope_keeper: pytest.Item = item.parent  # type: ignore[assignment]
    reports = pytest_compat.run_phases(item, scope_keeper)
    errors = [report.longreprtext for report in reports if report.failed]
    if errors and is_host_fault(host(), errors):
        lines = (error.strip().splitlines() for error in errors)
        reason = next((text[-1] for text in lines if text), "")
        session.note(f"{item.nodeid}: run again after a fault of the emulated CPU ({reason})")
        prepare()
        reports = pytest_compat.run_phases(item, nextitem)
    else:
        reports += _teardown_reports(item, nextitem)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _teardown_reports(item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    """Tear down what the next test does not need. Returns a report if that fails."""
    call = pytest.CallInfo.from_call(
        lambda: pytest_compat.teardown(item.session, nextitem), "teardown"
    )
    if call.excinfo is None:
        return []
    report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
    return [report]
