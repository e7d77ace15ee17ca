"""The pytest plugin: what happens when. Options, fixtures and what is printed have own modules."""

# ruff: noqa: PLC0415 - every pytest run loads the plugin: heavy imports wait for a test in need
from __future__ import annotations

import itertools
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError, hide_frames
from harness.hypervisors import registry
from harness.plugin import benchmark_bridge, fixtures, options, ordering, rerun, terminal
from harness.plugin.eta import TimeLeft
from harness.plugin.host_lock import HostLock
from harness.plugin.session import BASELINE, KEY, Session, session_of

if TYPE_CHECKING:
    from harness.guest.base import BaseGuest
    from harness.guest.guest import Guest
    from harness.hypervisors.base import Hypervisor

__tracebackhide__ = hide_frames
MARKERS = (
    "guest(vcpus=, memory=, network=, ssh=, hugepages=, mergeable=, ...): what the test's guest is "
    "made of (memory in MiB), as harness.hypervisors.base.GuestSpec has it",
    "requires_kvm_cap(name, ...): skip where KVM lacks one of these capabilities "
    '("KVM_CAP_IRQFD", or "IRQFD")',
    "payload(mode=, memory=, vcpus=, ...): how the test's payload guests are made; every test with "
    "the fixture payload has it",
    "compare_native: the test also runs in native guests "
    "(containers of the guest image on the host's kernel), so that the overhead is known",
    "requires_vm: the test needs a virtual machine; it does not run in native guests",
    "only_hypervisors(name, ...): the test is for these hypervisors alone",
    "exclusive_host: no other test with guests runs on the host meanwhile",
)
LOCK = pytest.StashKey[HostLock]()
LEFT = pytest.StashKey[TimeLeft]()
PLACE = pytest.StashKey[int]()  # in the order of collection
_places = itertools.count()


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    options.add(parser)
    pluginmanager.register(fixtures, "hypervisor-fixtures")
    pluginmanager.register(terminal, "hypervisor-reporting")


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    if not config.pluginmanager.hasplugin("benchmark"):
        config.addinivalue_line("markers", "benchmark: the test measures (as pytest-benchmark)")
    session = config.stash[KEY] = Session(config)
    for name in session.settings.hypervisors:
        if name != "auto" and not registry.known(name):
            raise pytest.UsageError(f"--hypervisor={name}: {registry.missing(name)}")
    if folder := session.settings.kvm_unit_tests:
        from harness.kvm_unit_tests.items import KvmUnitTestsPlugin

        config.pluginmanager.register(
            KvmUnitTestsPlugin(config, folder), "hypervisor-kvm-unit-tests"
        )


def _uses(test: pytest.Item | pytest.Metafunc, fixture: str) -> bool:
    """Whether a test uses our fixture, not another plugin's of that name."""
    info = getattr(test, "_fixtureinfo", None) or getattr(test, "_arg2fixturedefs", None)
    definitions = getattr(info, "name2fixturedefs", info) or {}
    found = definitions.get(fixture, ())
    return any(one.func.__module__ == "harness.plugin.fixtures" for one in found[-1:])


def uses_payloads(item: pytest.Item) -> bool:
    """Whether a test's payload guests run where such run, and not on the hypervisor that it has."""
    return _uses(item, "payload") and not _uses(item, "hypervisor")


def uses_harness(item: pytest.Item) -> bool:
    """Whether a test needs the session's hypervisor; payload guests may have one of their own."""
    return _uses(item, "hypervisor") or (_uses(item, "record_sample") and not uses_payloads(item))


def measures(item: pytest.Item) -> bool:
    fixtures = getattr(item, "fixturenames", ())
    return "record_sample" in fixtures or item.get_closest_marker("benchmark") is not None


def pytest_itemcollected(item: pytest.Item) -> None:
    item.stash[PLACE] = next(_places)
    if _uses(item, "payload") and item.get_closest_marker("payload") is None:
        item.add_marker("payload")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Of several hypervisors, every test that needs one runs on each that it is for; one with a
    baseline on that, too."""
    state, test = session_of(metafunc.config), metafunc.definition
    if not _uses(metafunc, "hypervisor") or _chooses_itself(test):
        return
    targets = state.settings.targets
    labels = [label for label, name in targets.items() if not _not_for(test, name)] or list(targets)
    if BASELINE not in targets and test.get_closest_marker("compare_native"):
        labels.append(BASELINE)
        state.wants_baseline = True
    if len(targets) > 1 or len(labels) > 1:
        metafunc.parametrize("hypervisor", labels, indirect=True, scope="session")


def _chooses_itself(test: pytest.Item) -> bool:
    """Whether a test has a parameter `hypervisor` of its own."""
    given = [
        mark.kwargs.get("argnames", *mark.args[:1]) for mark in test.iter_markers("parametrize")
    ]
    return "hypervisor" in given


def _not_for(test: pytest.Item, name: str) -> str:
    """Why a test does not run on a hypervisor; "" if it does."""
    if name == BASELINE and test.get_closest_marker("requires_vm"):
        return "needs a virtual machine, which a native guest is not"
    marker = test.get_closest_marker("only_hypervisors")
    if marker and name not in (*marker.args, "auto"):
        return f"is for {', '.join(marker.args)}, not for {name}"
    return ""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, object, object]:
    """In turn, not one hypervisor after the other: what drifts with time then hits all alike."""
    benchmark_bridge.choose(config, items, measures)
    result = yield
    if any(map(label_of, items)):
        # pytest has brought those of one hypervisor together, over modules
        items.sort(key=lambda item: item.stash.get(PLACE, 0))
        seed = session_of(config).settings.order_seed
        items[:] = ordering.interleave(items, label_of, seed)
    return result


def label_of(item: pytest.Item) -> str:
    """Which of several hypervisors a test is to run on; "" where there is no choice."""
    callspec = getattr(item, "callspec", None) if _uses(item, "hypervisor") else None
    return str(callspec.params.get("hypervisor", "")) if callspec else ""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Before the first test: a hypervisor that was named and cannot be used ends the session."""
    if not session.config.option.collectonly and not (
        session.testsfailed and not session.config.option.continue_on_collection_errors
    ):
        _begin(session_of(session.config), session.items)
        if any(map(measures, session.items)):
            session.config.stash[LEFT] = TimeLeft(map(_kind, session.items))
    return (yield)


def _kind(item: pytest.Item) -> str:
    """Tests of one kind take about as long as each other."""
    return f"{item.nodeid.partition('[')[0]} {label_of(item)}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """With measurements among the tests: how much is left, once a minute."""
    result = yield
    left = item.config.stash.get(LEFT, None)
    if left is not None and (line := left.done(_kind(item))):
        session_of(item.config).progress(line)
    return result


def _begin(state: Session, items: list[pytest.Item]) -> None:
    guests = [item for item in items if uses_harness(item)]
    payloads = [item for item in items if uses_payloads(item)]
    measured = [item for item in (*guests, *payloads) if measures(item)]
    if measured and state.worker_count > 1:
        state.forbidden = (
            f"{measured[0].nodeid} measures, and {state.worker_count} workers would disturb each "
            "other: run measured tests without -n (or deselect them)"
        )
    if measured:
        _choose_baseline(state)
    if guests:
        state.start()
    if payloads:
        state.payloads.start()
    problem = state.usage_problem() or state.payloads.usage_problem()
    if problem and state.worker is None:
        # A worker cannot end the session: its tests err, and the controller gives exit status 4.
        raise pytest.UsageError(problem)
    if measured and (state.hypervisor or state.payloads.hypervisor):
        try:
            state.need_recorder()
        except HarnessError as error:
            state.progress(str(error))  # and record_sample will say it again, where it matters


def _choose_baseline(state: Session) -> None:
    """A word that means no run is told now, not after hours."""
    try:
        state.choose_baseline()
    except HarnessError as error:
        if state.worker is None:
            raise pytest.UsageError(f"--virt-baseline: {error}") from error
        state.forbidden = f"--virt-baseline: {error}"


# -- one test ------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    state = session_of(item.config)
    state.used = []
    if uses_harness(item):
        state.start()
        _renew_worn_host(item, state)
        hypervisor = state.target(label_of(item))
    elif uses_payloads(item):
        state.payloads.start()
        hypervisor = state.payloads.hypervisor
    else:
        return
    if hypervisor is None:
        return  # the fixture says why
    name = state.settings.targets.get(hypervisor.name, hypervisor.name)
    if uses_harness(item) and (why := _not_for(item, name)):
        pytest.skip(why)
    _skip_what_cannot_be(item, hypervisor)
    lock = item.stash[LOCK] = HostLock(hypervisor.host.name)
    exclusive = item.get_closest_marker("exclusive_host") is not None
    lock.acquire(exclusive=exclusive, progress=state.progress)
    _replace_dead_shared_guest(item)


def _skip_what_cannot_be(item: pytest.Item, hypervisor: Hypervisor) -> None:
    facts = hypervisor.host.facts
    wanted = [word for mark in item.iter_markers("requires_kvm_cap") for word in mark.args]
    if wanted:
        there = hypervisor.capabilities()
        full = [name if name.startswith("KVM_CAP_") else f"KVM_CAP_{name}" for name in wanted]
        if lacking := [name for name in full if not there.get(name, 0)]:
            pytest.skip(f"host {hypervisor.host.name} lacks {', '.join(lacking)}")
    marker = item.get_closest_marker("guest")
    vcpus = marker.kwargs.get("vcpus", 1) if marker else 1
    memory = marker.kwargs.get("memory", 0) if marker else 0
    if vcpus > facts.cpus:
        pytest.skip(f"needs {vcpus} CPUs, the host has {facts.cpus}")
    if memory << 20 > facts.memory:
        pytest.skip(f"needs {memory} MiB of memory, the host has {facts.memory >> 20}")


def _renew_worn_host(item: pytest.Item, state: Session) -> None:
    """Between two tests: end the fixtures that hold the host, so that they are made anew."""
    definitions = item._fixtureinfo.name2fixturedefs.get("hypervisor")  # type: ignore[attr-defined]
    if definitions and state.needs_replacement:
        definitions[-1].finish(item._request)  # type: ignore[attr-defined]
        state.renew()


def _replace_dead_shared_guest(item: pytest.Item) -> None:
    """End the module's fixture, so that it is asked anew, with all that depends on it."""
    definitions = item._fixtureinfo.name2fixturedefs.get("shared_guest")  # type: ignore[attr-defined]
    if not definitions or (cached := definitions[-1].cached_result) is None:
        return
    guest: Guest | None = cached[0]
    if guest is not None and guest.ended.is_set():
        definitions[-1].finish(item._request)  # type: ignore[attr-defined]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A guest that ends in a test fails it, also when the test looked elsewhere."""
    if not (uses_harness(item) or uses_payloads(item)):
        return (yield)
    state = session_of(item.config)
    _note_used(item, state)
    before = {guest for guest in state.guests if guest.ended.is_set()} - set(state.used)

    def ended() -> list[BaseGuest]:
        known = before | state.reported
        gone = [one for one in state.guests if one.ended_unexpectedly and one not in known]
        state.reported.update(gone)
        state.used += [one for one in gone if one not in state.used]
        return gone

    try:
        result = yield
    except BaseException:
        ended()  # the test fails anyway; its sections tell of the end
        raise
    gone = ended()
    for one in state.used:
        one.callbacks.raise_error()
    if gone:
        raise gone[0].ended_error("while the test ran")
    return result


def _note_used(item: pytest.Item, state: Session) -> None:
    """Guests that were there before the test and that it was given."""
    given = getattr(item, "funcargs", {}).values()
    state.used += [one for one in state.guests if one in given and one not in state.used]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test tells of its guests: last console lines, boot timeline, end."""
    state = session_of(item.config)
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, HarnessError) and error.guest in {guest.name for guest in state.used}:
        error.console = ()  # the guest's own section has more of it
    report = yield
    if isinstance(error, HarnessError):
        terminal.shorten(report, error)
    if report.failed and state.used:
        state.failed.update(state.used)
        for guest in state.used:
            report.sections.extend(terminal.sections(guest))
    if state.recorder is not None and not item.stash.get(rerun.UNCOUNTED, False):
        state.recorder.count(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        if lock := item.stash.get(LOCK, None):
            lock.release()


# -- the session's end ---------------------------------------------------------------------------


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    state = session_of(session.config)
    try:
        state.close()  # the fixture has done it, unless no test came so far
    except Exception as error:
        state.notes.append(f"at the end: {error}")
        _fail(session)
    if state.recorder is not None:
        from harness.plugin.recorder import as_json

        state.outputs.append(as_json(state.recorder.close(int(session.exitstatus))))
    state.tidy()
    if any(made["problems"] for made in state.outputs) or _gate_closed(state):
        _fail(session)
    if state.worker is not None:
        output: dict[str, Any] = session.config.workeroutput  # type: ignore[attr-defined]
        output["harness"] = state.worker_report()
    elif state.remote_usage:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


def _gate_closed(state: Session) -> bool:
    """A session that must not get worse did, or nothing says that it did not."""
    if state.settings.gate != "fail" or state.worker is not None or state.config.option.collectonly:
        return False
    if not any(made["compared"] for made in state.outputs):
        state.notes.append("--virt-gate=fail: nothing was compared, no test measured anything")
        return True
    return any(made["regressed"] or not made["has_power"] for made in state.outputs)


def _fail(session: pytest.Session) -> None:
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


# -- xdist ---------------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """On the controller: all workers belong to one run."""
    node.workerinput["harness_run"] = session_of(node.config).run


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """On the controller: what a worker has to tell at its end."""
    report = getattr(node, "workeroutput", {}).get("harness")
    if report:
        session_of(node.config).merge_worker_report(report)
