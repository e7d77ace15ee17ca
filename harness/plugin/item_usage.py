"""What a collected test uses of this plugin."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.plugin.pytest_compat import fixture_definitions

FIXTURE_MODULE = "harness.plugin.fixtures"


def uses_fixture(test: pytest.Item | pytest.Metafunc, fixture: str) -> bool:
    """Whether a test uses this plugin's fixture, not another one of that name."""
    definitions = fixture_definitions(test).get(fixture, ())
    return any(one.func.__module__ == FIXTURE_MODULE for one in definitions[-1:])


def uses_payload_host(item: pytest.Item) -> bool:
    """Whether a test's payload guests run on the session's PayloadHost, not on the hypervisor that
    the test itself has."""
    return uses_fixture(item, "payload") and not uses_fixture(item, "hypervisor")


def uses_hypervisor(item: pytest.Item) -> bool:
    """Whether a test needs the session's hypervisor."""
    return uses_fixture(item, "hypervisor") or (
        uses_fixture(item, "record_sample") and not uses_payload_host(item)
    )


def uses_plugin(item: pytest.Item) -> bool:
    """Whether a test needs a hypervisor or the payload host."""
    return uses_hypervisor(item) or uses_payload_host(item)


def measures(item: pytest.Item) -> bool:
    """Whether a test measures in guests: it records samples, or has the marker `benchmark`."""
    return uses_fixture(item, "record_sample") or (
        uses_plugin(item) and item.get_closest_marker("benchmark") is not None
    )


def parametrized_names(test: pytest.Item) -> set[str]:
    """The argument names of a test's own `parametrize` markers."""
    names: set[str] = set()
    for mark in test.iter_markers("parametrize"):
        argnames: str | Sequence[str] = mark.kwargs.get(
            "argnames", mark.args[0] if mark.args else ""
        )
        names.update(
            (name.strip() for name in argnames.split(","))
            if isinstance(argnames, str)
            else argnames
        )
    return names


def target_label(item: pytest.Item) -> str:
    """Which of several hypervisors a test runs on; "" when there is no choice."""
    callspec = getattr(item, "callspec", None) if uses_fixture(item, "hypervisor") else None
    return str(callspec.params.get("hypervisor", "")) if callspec else ""
