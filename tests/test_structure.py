"""The layers of docs/architecture.md: who may import whom, no circles, and nothing too large."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the top: a package imports only packages of lower layers, and itself.
LAYERS = (
    ("benchmarks",),
    ("suites", "examples"),
    ("harness.__main__", "harness.conformance"),
    ("harness.commands",),
    ("harness.plugin",),
    ("harness.kvm_unit_tests",),
    ("reports",),
    ("harness.planner",),
    ("harness.guest", "harness.results"),
    ("harness.hypervisors",),
    ("harness.hosts",),
    ("harness.scratch",),
    ("harness.agent",),
    ("images",),
    ("harness.vmm",),
    ("harness.kvm", "harness.ssh"),
    ("harness.git", "harness.run_id", "harness.urls"),
    ("harness.errors",),
)
LEVELS = {package: level for level, layer in enumerate(LAYERS) for package in layer}
CIRCLE_FREE = ("harness", "images", "reports")
MAX_LINES = {"module": 400, "class": 250, "function": 60}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, Path]:
    """All modules but the tests, by dotted name."""
    tops = {package.partition(".")[0] for package in LEVELS}
    return {_name(path): path for top in tops for path in (ROOT / top).rglob("*.py")}


def _resolve(name: str) -> str | None:
    """The module that an imported dotted name lies in: itself, or its parent."""
    while name and name not in sources():
        name = name.rpartition(".")[0]
    return name or None


def _imported_names(path: Path) -> Iterator[str]:
    """Dotted names that a module imports, in functions and for type checking, too."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, node.module) if node.module else base)
            yield from (f"{module}.{alias.name}" for alias in node.names)


@cache
def imports(module: str) -> frozenset[str]:
    """The project's own modules that a module imports."""
    resolved = {_resolve(name) for name in _imported_names(sources()[module])}
    return frozenset(name for name in resolved if name and name != module)


def layer_of(module: str) -> str:
    """The package of LAYERS that a module belongs to, "" for the plain `harness`."""
    return next((one for one in LEVELS if f"{module}.".startswith(f"{one}.")), "")


def _circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def test_every_module_has_a_layer() -> None:
    assert [name for name in sources() if name != "harness" and not layer_of(name)] == []


def test_layers_import_only_lower_layers() -> None:
    violations = [
        f"{module} imports {target}"
        for module in sources()
        for target in imports(module)
        if (source := layer_of(module)) != (other := layer_of(target))
        and other
        and LEVELS[other] <= LEVELS[source]
    ]
    assert not violations, "\n".join(violations)


def test_modules_have_no_import_circle() -> None:
    graph = {
        module: set(imports(module))
        for module in sources()
        if module.partition(".")[0] in CIRCLE_FREE
    }
    circle = _circle(graph)
    assert not circle, " -> ".join(circle)


def test_packages_have_no_import_circle() -> None:
    graph: dict[str, set[str]] = {package: set() for package in LEVELS}
    for module in sources():
        source = layer_of(module)
        targets = {layer_of(target) for target in imports(module)} - {source, ""}
        if source:
            graph[source] |= targets
    circle = _circle(graph)
    assert not circle, " -> ".join(circle)


def _definitions(path: Path) -> Iterator[tuple[str, str, int]]:
    """Kind, name and lines of everything in a module that has a limit."""
    text = path.read_text()
    yield "module", "", text.count("\n")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            yield kind, node.name, (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("kind", MAX_LINES)
def test_nothing_outgrows_its_idea(kind: str) -> None:
    too_large = [
        f"{path.relative_to(ROOT)} {name}: {lines} lines"
        for path in [*sources().values(), *(ROOT / "tests").rglob("*.py")]
        for of_kind, name, lines in _definitions(path)
        if of_kind == kind and lines > MAX_LINES[kind]
    ]
    assert not too_large, "\n".join(too_large)
