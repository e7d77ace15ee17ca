"""The pytest plugin's entry point: configuration, the session's start and end, pytest-xdist.

Other hooks are in collection, runtest and terminal, fixtures in fixtures.
"""

# ruff: noqa: PLC0415 - every pytest run loads this module, so heavy imports are inside functions
from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from harness.errors import HarnessError, hide_frames
from harness.hypervisors import registry
from harness.plugin import collection, fixtures, markers, options, runtest, terminal
from harness.plugin.eta import TimeEstimate
from harness.plugin.item_usage import measures, uses_hypervisor, uses_payload_host
from harness.plugin.options import GATE_WITHOUT_BASELINE
from harness.plugin.session import KEY, Session, session_of

__tracebackhide__ = hide_frames


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the options, and register the plugin's other modules."""
    options.add(parser)
    pluginmanager.register(fixtures, "hypervisor-fixtures")
    pluginmanager.register(collection, "hypervisor-collection")
    pluginmanager.register(runtest, "hypervisor-runtest")
    pluginmanager.register(terminal, "hypervisor-reporting")


def pytest_configure(config: pytest.Config) -> None:
    """Make the session. Raises pytest.UsageError for an unknown hypervisor."""
    markers.declare(config)
    session = config.stash[KEY] = Session(config)
    config.pluginmanager.register(runtest.OutcomeCounter(session), "hypervisor-outcomes")
    for name in session.settings.hypervisors:
        if name != "auto" and not registry.known(name):
            raise pytest.UsageError(f"--hypervisor={name}: {registry.missing(name)}")
    if folder := session.settings.kvm_unit_tests:
        from harness.kvm_unit_tests.items import KvmUnitTestsPlugin

        config.pluginmanager.register(
            KvmUnitTestsPlugin(config, folder), "hypervisor-kvm-unit-tests"
        )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Start the host before the first test. The session ends if a named one is not usable."""
    options = session.config.option
    errors = session.testsfailed and not options.continue_on_collection_errors
    if not options.collectonly and not errors:
        _start(session_of(session.config), session.items)
        if any(map(measures, session.items)):
            kinds = map(runtest.kind_of, session.items)
            session.config.stash[runtest.ESTIMATE] = TimeEstimate(kinds)
    return (yield)


def _start(session: Session, items: list[pytest.Item]) -> None:
    guests = [item for item in items if uses_hypervisor(item)]
    payloads = [item for item in items if uses_payload_host(item)]
    measured = [item for item in (*guests, *payloads) if measures(item)]
    workers = session.context.worker_count
    if measured and workers > 1:
        session.hosts.add_usage_error(
            f"{measured[0].nodeid} measures, and {workers} workers would disturb each other\n"
            "hint: run tests that measure without -n, or deselect them"
        )
    if measured:
        session.report.measures = True
        _choose_baseline(session)
    if guests:
        session.start()
    if payloads:
        session.start_payloads()
    problem = session.usage_problem()
    if problem and session.context.worker is None:
        # A worker cannot end the session: its tests fail, and the controller's exit status is 4.
        raise pytest.UsageError(problem)
    if measured and (session.hosts.hypervisor or session.payloads.hypervisor):
        try:
            session.need_recorder()
        except HarnessError as error:
            session.progress(str(error))  # the fixture record_sample raises it again


def _choose_baseline(session: Session) -> None:
    """A baseline that does not exist is an error before the first test, not after the last one."""
    settings = session.settings
    if settings.gate == "fail" and not settings.baseline:
        if session.context.worker is None:
            raise pytest.UsageError(GATE_WITHOUT_BASELINE)
        session.hosts.add_usage_error(GATE_WITHOUT_BASELINE)
    try:
        session.choose_baseline()
    except HarnessError as error:
        if session.context.worker is None:
            raise pytest.UsageError(f"--virt-baseline: {error}") from error
        session.hosts.add_usage_error(f"--virt-baseline: {error}")


# -- the session's end ---------------------------------------------------------------------------


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """End guests and host, write the outputs, set the exit status."""
    ours = session_of(session.config)
    try:
        ours.close()  # the fixture has already closed it, unless no test got that far
    except Exception as error:
        ours.report.notes.append(f"at the end: {error}")
        _fail(session)
    ours.write_outputs(int(session.exitstatus))
    if ours.report.started:
        ours.context.remove_empty_directories()
    ours.report.gate_failure = _gate_failure(ours)
    if any(outputs["problems"] for outputs in ours.report.outputs) or ours.report.gate_failure:
        _fail(session)
    if ours.context.worker is not None:
        ours.report.header = collection.header(session.config, session.items) or ""
        output: dict[str, Any] = session.config.workeroutput  # type: ignore[attr-defined]
        output["harness"] = ours.worker_report()
    elif ours.report.usage_errors:
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


def _gate_applies(session: Session) -> bool:
    """Whether --virt-gate=fail can fail this session. A gate of the ini file ignores a session in
    which no test measures."""
    if session.settings.gate != "fail" or session.context.worker is not None:
        return False
    if session.config.option.collectonly:
        return False
    return session.report.measures or session.settings.gate_typed


def _gate_failure(session: Session) -> str:
    """Why --virt-gate=fail fails the session: a figure regressed, or nothing shows that none did.

    "" if it does not.
    """
    outputs = session.report.outputs
    if not _gate_applies(session):
        return ""
    if regressed := sum(entry["regressed"] for entry in outputs):
        return f"{regressed} {'figure' if regressed == 1 else 'figures'} regressed"
    if not any(entry["compared"] for entry in outputs):
        if any(entry["problems"] for entry in outputs):
            return "nothing was compared, because of an error"
        return "nothing was compared, because no test measured anything"
    if not all(entry["has_power"] for entry in outputs):
        return "the comparison could not show a regression"
    return ""


def _fail(session: pytest.Session) -> None:
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


# -- pytest-xdist --------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """On the controller: all workers have one run id."""
    node.workerinput["harness_run"] = session_of(node.config).context.run


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """On the controller: merge the report of a worker that ends."""
    report = getattr(node, "workeroutput", {}).get("harness")
    if report:
        session_of(node.config).report.merge_worker_report(report)
