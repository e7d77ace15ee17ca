"""A test that failed for a fault of the emulated host's CPU is run once more, and that is told.

For tests of the emulated host alone: what a guest of real hardware does is never tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from harness.plugin.session import session_of

# What becomes of a guest that QEMU's CPU gave an interrupt that there was not (CODE_BUFFER in
# harness/hosts/qemu.py): it ends, or it hangs.
EMULATION_FAULT_PATTERNS = (
    "triple-fault: vCPU",
    "Fatal exception in interrupt",
    "did not take its identity",
    "SSHLate",
    # a triple fault of a guest of QEMU's, before and after its monitor was there to say so
    "power-off (it ended while it booted)",
    "QEMU tells the two alike",
)
UNCOUNTED = pytest.StashKey[bool]()  # a test whose attempts are not all its outcome


def signs(said: Iterable[str]) -> bool:
    """Whether one of a test's errors is what that fault leads to."""
    return any(sign in text for text in said for sign in EMULATION_FAULT_PATTERNS)


def _leave(item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    """End what the next test has no use for; a report if that fails."""
    call = pytest.CallInfo.from_call(
        lambda: item.session._setupstate.teardown_exact(nextitem), "teardown"
    )
    if call.excinfo is None:
        return []
    report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
    return [report]


def protocol(
    item: pytest.Item,
    nextitem: pytest.Item | None,
    blame: Callable[[Sequence[str]], bool],
    between: Callable[[], None],
) -> bool:
    """Run a test, for pytest_runtest_protocol. blame: given the errors of a test that failed,
    whether that is the host's fault. between: what is to be done before it runs again."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    session = session_of(item.config)
    item.stash[UNCOUNTED] = True
    # what outlives this test must not end with its first attempt
    stays: Any = item.parent
    reports = runtestprotocol(item, nextitem=stays, log=False)
    said = [one.longreprtext for one in reports if one.failed]
    if said and blame(said):
        why = next((text.strip().splitlines()[-1] for text in said if text.strip()), "")
        session.note(f"{item.nodeid}: once more, for a fault of the emulated CPU's ({why})")
        between()
        session.attempt = 2  # what it measures now is what counts of it
        try:
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
        finally:
            session.attempt = 1
    else:
        reports += _leave(item, nextitem)
    for report in reports:
        if session.recorder is not None:
            session.recorder.count(report)
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
