"""What a collected test uses of this plugin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.plugin.pytest_compat import fixture_definitions, parameter_ids

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


def figure_identity(item: pytest.Item, boot: int | None) -> tuple[str, str]:
    """Suite and test of an item's figures: what its boots on all hypervisors share.

    boot: the number that the test gives with a value; None for none. A parameter `boot` of the
    test's own with this number is the number of the boot, too. An item of another collector may
    have an attribute `figure_identity`.
    """
    own: tuple[str, str] | None = getattr(item, "figure_identity", None)
    return own or (suite_of(item), node_id_of_test(item, boot))


def suite_of(item: pytest.Item) -> str:
    """A test's suite: the folders below the last "suites" of its path, else its own folder.

    Only the path below pytest's root directory counts, since checkouts lie anywhere.
    """
    path, root = Path(item.path), item.config.rootpath
    relative = path.relative_to(root) if path.is_relative_to(root) else path
    folders = relative.parent.parts
    if "suites" in folders:
        folders = folders[len(folders) - folders[::-1].index("suites") :]
    else:
        folders = folders[-1:]
    return "/".join(folders) or path.stem.removeprefix("test_")


def node_id_of_test(item: pytest.Item, boot: int | None = None) -> str:
    """The node id without the parameters that this plugin adds. A test's own parameters, and those
    of other plugins, are part of it."""
    ids = parameter_ids(item)
    if not ids:
        return item.nodeid
    params = item.callspec.params  # type: ignore[attr-defined]
    for name in ("hypervisor", "boot"):
        if name not in params or str(params[name]) not in ids:
            continue
        if uses_fixture(item, name) or (name == "boot" and params[name] == boot):
            ids.remove(str(params[name]))
    function = item.nodeid.removesuffix(f"[{item.callspec.id}]")  # type: ignore[attr-defined]
    return f"{function}[{'-'.join(ids)}]" if ids else function


def target_label(item: pytest.Item) -> str:
    """Which of several hypervisors a test runs on; "" when there is no choice."""
    callspec = getattr(item, "callspec", None) if uses_fixture(item, "hypervisor") else None
    return str(callspec.params.get("hypervisor", "")) if callspec else ""
