"""What the plugin does around each test: skips, the host's lock, guests that end, its report."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from harness.errors import HarnessError, hide_frames
from harness.plugin import markers, terminal
from harness.plugin.eta import TimeEstimate
from harness.plugin.host_lock import HostLock
from harness.plugin.item_usage import (
    target_label,
    uses_hypervisor,
    uses_payload_host,
    uses_plugin,
)
from harness.plugin.pytest_compat import cached_value, finish_fixture
from harness.plugin.session import Session, session_of

if TYPE_CHECKING:
    from harness.guest.guest import Guest
    from harness.hypervisors.base import Hypervisor

__tracebackhide__ = hide_frames
LOCK = pytest.StashKey[HostLock]()
_ATTEMPT = pytest.StashKey[int]()  # number of the item's attempt, from 1
ESTIMATE = pytest.StashKey[TimeEstimate]()


def kind_of(item: pytest.Item) -> str:
    """Tests of one kind take about the same time."""
    return f"{item.nodeid.partition('[')[0]} {target_label(item)}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """In a session that measures, print an estimate of the remaining time once a minute."""
    result = yield
    estimate = item.config.stash.get(ESTIMATE, None)
    if estimate is not None and (line := estimate.finish(kind_of(item))):
        session_of(item.config).progress(line)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before a test with guests: a usable host, skips, and the host's lock."""
    session = session_of(item.config)
    session.guests.used = []
    attempt = item.stash[_ATTEMPT] = item.stash.get(_ATTEMPT, 0) + 1
    if attempt > 1 and session.recorder is not None:  # another plugin may run a test again, too
        session.recorder.supersede_attempts(item.nodeid, attempt)
    if uses_hypervisor(item):
        session.start()
        if session.needs_replacement:
            # All fixtures of the old host end, and are made again on the new one.
            finish_fixture(item, "hypervisor")
            session.replace_host()
        hypervisor = session.hosts.target(target_label(item))
    elif uses_payload_host(item):
        session.start_payloads()
        hypervisor = session.payloads.hypervisor
    else:
        return
    if hypervisor is None:
        return  # the fixture reports why
    name = session.settings.targets.get(hypervisor.name, hypervisor.name)
    if uses_hypervisor(item) and (why := markers.excluded_by(item, name)):
        pytest.skip(why)
    _skip_without_resources(item, hypervisor)
    lock = item.stash[LOCK] = HostLock(hypervisor.host.name)
    exclusive = item.get_closest_marker("exclusive_host") is not None
    lock.acquire(exclusive=exclusive, progress=session.progress)
    shared: Guest | None = cached_value(item, "shared_guest")
    if shared is not None and shared.ended.is_set():
        # The fixture then starts another guest, and what depends on it is made again.
        finish_fixture(item, "shared_guest")


def _skip_without_resources(item: pytest.Item, hypervisor: Hypervisor) -> None:
    """Skip a test whose capabilities, CPUs or memory the host does not have."""
    facts = hypervisor.host.facts
    names = [name for mark in item.iter_markers("requires_kvm_cap") for name in mark.args]
    if names:
        available = hypervisor.capabilities()
        full = [name if name.startswith("KVM_CAP_") else f"KVM_CAP_{name}" for name in names]
        if missing := [name for name in full if not available.get(name, 0)]:
            pytest.skip(f"host {hypervisor.host.name} lacks {', '.join(missing)}")
    marker = item.get_closest_marker("guest")
    vcpus = marker.kwargs.get("vcpus", 1) if marker else 1
    memory = marker.kwargs.get("memory", 0) if marker else 0
    if vcpus > facts.cpus:
        pytest.skip(f"needs {vcpus} CPUs, the host has {facts.cpus}")
    if memory << 20 > facts.memory:
        pytest.skip(f"needs {memory} MiB of memory, the host has {facts.memory >> 20}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A guest that ends unexpectedly during a test fails it, even if the test does not notice."""
    if not uses_plugin(item):
        return (yield)
    guests = session_of(item.config).guests
    guests.note_used(list(getattr(item, "funcargs", {}).values()))
    earlier = {guest for guest in guests.running if guest.ended.is_set()} - set(guests.used)
    try:
        result = yield
    except BaseException:
        guests.report_unexpected_ends(earlier)  # the failed test's sections describe the ends
        raise
    ended = guests.report_unexpected_ends(earlier)
    for guest in guests.used:
        guest.callbacks.raise_error()
    if ended:
        raise ended[0].ended_error("while the test ran")
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add sections on the guests to a failed test's report."""
    session = session_of(item.config)
    used = session.guests.used
    error = call.excinfo.value if call.excinfo else None
    for guest in used:
        if isinstance(error, HarnessError) and error.guest == guest.name:
            error.console = ()  # the guest's section has more lines
            terminal.shorten_end(error, guest)
    report = yield
    if isinstance(error, HarnessError):
        terminal.shorten(report, error)
    if report.failed and used:
        session.guests.failed.update(used)
        named = error.guest if isinstance(error, HarnessError) else ""
        report.sections.extend(terminal.all_sections(used, named))
    return report


class OutcomeCounter:
    """Counts the outcomes of tests when their reports are logged, since a plugin that reruns tests
    changes the reports after pytest_runtest_makereport."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._session.recorder is not None:
            self._session.recorder.count(report)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Release the host's lock."""
    try:
        return (yield)
    finally:
        if lock := item.stash.get(LOCK, None):
            lock.release()
