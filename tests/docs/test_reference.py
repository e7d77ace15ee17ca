"""The tables of docs/reference.md have exactly the names, and the defaults, of the code."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from harness.guest.guest_options import GUEST_OPTION_NAMES
from harness.hypervisors.base import GuestSpec
from harness.plugin.markers import MARKERS
from harness.plugin.options import OPTIONS
from tests.docs.examples import ROOT

REFERENCE = (ROOT / "docs" / "reference.md").read_text()
# fixtures that the public ones use
INTERNAL_FIXTURES = {"harness_session", "shared_guests"}


def table(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading; their cells as Markdown."""
    section = re.split(r"^## ", REFERENCE.partition(f"\n## {heading}\n")[2], flags=re.MULTILINE)[0]
    rows = [line.strip()[1:-1] for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row.split("|")] for row in rows]


def names(heading: str) -> list[str]:
    """The names in the first column of a table, without their arguments."""
    cells = [row[0] for row in table(heading)]
    return [name for cell in cells for name in re.findall(r"`([\w-]+)[^`]*`", cell)]


def test_options_and_their_defaults() -> None:
    rows = {row[0].strip("`"): row[1].strip("`") for row in table("Options")}
    assert rows == {
        f"{option.flag}={option.metavar}" if option.metavar else option.flag: option.default
        for option in OPTIONS
    }


def test_options_in_order_of_help() -> None:
    assert names("Options") == [option.flag for option in OPTIONS]


def fixtures_of(path: Path) -> dict[str, str]:
    """The fixtures that a module defines, and their scopes."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        for decorator in getattr(node, "decorator_list", []):
            text = ast.unparse(decorator)
            if text.startswith("pytest.fixture"):
                scope = re.search(r"scope='(\w+)'", text)
                found[node.name] = scope[1] if scope else "function"  # type: ignore[attr-defined]
    return found


def test_fixtures_and_their_scopes() -> None:
    defined: dict[str, str] = {}
    for path in (ROOT / "harness" / "plugin").glob("*.py"):
        defined |= fixtures_of(path)
    public = {name: scope for name, scope in defined.items() if name not in INTERNAL_FIXTURES}
    assert {row[0].strip("`"): row[1] for row in table("Fixtures")} == public


def test_markers() -> None:
    assert sorted(names("Markers")) == sorted(marker.name for marker in MARKERS)


def test_guest_options() -> None:
    assert set(names("Guest options")) == set(GUEST_OPTION_NAMES)
    assert {field.name for field in fields(GuestSpec)} - {"name"} == set(GUEST_OPTION_NAMES)


def test_environment_variables() -> None:
    used: set[str] = set()
    for folder in ("harness", "images", "reports"):
        for path in (ROOT / folder).rglob("*.py"):
            used |= set(re.findall(r'environ(?:\.get\(|\[)"(\w+)"', path.read_text()))
    from harness.kvm_unit_tests.items import ENVIRONMENT

    assert set(names("Environment variables")) == {*used, ENVIRONMENT}


@pytest.mark.parametrize("heading", ["Outcomes", "Exit statuses", "Limits"])
def test_section_exists(heading: str) -> None:
    assert f"\n## {heading}\n" in REFERENCE
