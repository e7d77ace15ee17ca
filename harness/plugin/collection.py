"""What the plugin does while pytest collects: targets, boots, the order of tests."""

from __future__ import annotations

import itertools
from collections.abc import Generator

import pytest

from harness.plugin import benchmark_bridge, markers, ordering
from harness.plugin.host_manager import NATIVE
from harness.plugin.item_usage import parametrized_names, target_label, uses_fixture, uses_plugin
from harness.plugin.session import session_of

_PLACE = pytest.StashKey[int]()  # in the order of collection
_places = itertools.count()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Remember the order of collection, and mark payload tests."""
    item.stash[_PLACE] = next(_places)
    if markers.needs_marker_payload(item):
        item.add_marker("payload")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each hypervisor that it is for, and for each boot."""
    own = parametrized_names(metafunc.definition)
    if uses_fixture(metafunc, "hypervisor") and "hypervisor" not in own:
        _parametrize_hypervisor(metafunc)
    if uses_fixture(metafunc, "boot") and "boot" not in own:
        profile = session_of(metafunc.config).settings.profile
        boots = markers.boots_of(metafunc.definition, profile)
        metafunc.parametrize("boot", range(boots), indirect=True)


def _parametrize_hypervisor(metafunc: pytest.Metafunc) -> None:
    """The test runs on each of several hypervisors that it is for, and on NATIVE if it has the
    marker compare_native."""
    session, test = session_of(metafunc.config), metafunc.definition
    targets = session.settings.targets
    labels = [label for label, name in targets.items() if not markers.excluded_by(test, name)]
    labels = labels or list(targets)
    if NATIVE not in targets and test.get_closest_marker("compare_native"):
        labels.append(NATIVE)
        session.hosts.wants_native = True
    if len(targets) > 1 or len(labels) > 1:
        metafunc.parametrize("hypervisor", labels, indirect=True, scope="session")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, object, object]:
    """Check markers, and let the hypervisors alternate: what drifts with time then affects all of
    them alike."""
    session = session_of(config)
    if problem := markers.check(items):
        if session.context.worker is None:
            raise pytest.UsageError(problem)
        session.hosts.add_usage_error(problem)
    benchmark_bridge.apply_selection(config, items)
    result = yield
    if any(map(target_label, items)):
        # pytest has grouped the tests by hypervisor, across modules.
        items.sort(key=lambda item: item.stash.get(_PLACE, 0))
        items[:] = ordering.interleave(items, target_label, session.settings.order_seed)
    return result


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> str | None:
    """Print what the tests use before the first one."""
    return header(config, items)


def header(config: pytest.Config, items: list[pytest.Item]) -> str | None:
    """One line on what the tests will use. The host's facts follow when it starts."""
    if (
        config.get_verbosity() < 0
        or getattr(config.option, "no_header", False)
        or not any(map(uses_plugin, items))
    ):
        return None
    settings = session_of(config).settings
    host = f"host {settings.host}"
    if settings.host == "auto":
        host += " (chosen when the first test needs it)"
    return (
        f"hypervisor: {settings.hypervisor} on {host}; guests of {settings.vcpus} vCPU, "
        f"{settings.memory} MiB"
    )
