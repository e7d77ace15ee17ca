"""The private parts of pytest that the plugin uses, and the way to pytest-benchmark's session.

No other module uses private parts of pytest. benchmark_bridge.py alone works with the objects of
pytest-benchmark.
tests/plugin/test_compatibility.py runs the plugin with the oldest pytest that pyproject.toml
declares, and with the newest one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from _pytest.runner import runtestprotocol


def fixture_definitions(
    test: pytest.Item | pytest.Metafunc,
) -> Mapping[str, Sequence[pytest.FixtureDef[Any]]]:
    """The definitions of a test's fixtures by name, the one in use last. Empty for items that have
    no fixtures."""
    if isinstance(test, pytest.Metafunc):
        definitions: Mapping[str, Sequence[pytest.FixtureDef[Any]]] = test._arg2fixturedefs
        return definitions
    info = getattr(test, "_fixtureinfo", None)
    return getattr(info, "name2fixturedefs", {})


def parameter_ids(item: pytest.Item) -> list[str]:
    """The ids of an item's parameters, one for each `parametrize`, as in its node id."""
    callspec = getattr(item, "callspec", None)
    return list(callspec._idlist) if callspec is not None else []


def cached_value(item: pytest.Item, fixture: str) -> Any:
    """The present value of a fixture of the item; None when there is none."""
    definitions = fixture_definitions(item).get(fixture)
    if not definitions or (cached := definitions[-1].cached_result) is None:
        return None
    return cached[0]


def finish_fixture(item: pytest.Item, fixture: str) -> None:
    """Tear a fixture down with all that depends on it. The item's setup then makes it again."""
    if definitions := fixture_definitions(item).get(fixture):
        definitions[-1].finish(item._request)  # type: ignore[attr-defined]


def teardown(session: pytest.Session, nextitem: pytest.Item | None) -> None:
    """Tear down what `nextitem` does not need; None for everything. Raises what teardowns raise."""
    session._setupstate.teardown_exact(nextitem)


def run_phases(item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    """Set an item up, call it and tear it down, without logging the reports."""
    return runtestprotocol(item, log=False, nextitem=nextitem)


def benchmark_session(config: pytest.Config) -> Any:
    """pytest-benchmark's own session; None when that plugin is not active."""
    return getattr(config, "_benchmarksession", None)
