"""Style and types are tests like any other."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# what is shipped to a host, and what each may import beside the standard library
SHIPPED = {"kvm": {"kvm"}, "vmm": {"vmm", "kvm"}, "agent": {"agent", "vmm", "kvm"}}


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--quiet"],
        ["ruff", "format", "--check", "--quiet"],
        ["mypy", "--strict"],
    ],
    ids=" ".join,
)
def test_code_is_clean(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", ["dev", ".ci/run"])
def test_script_parses_and_is_executable(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    shell = path.read_text().partition("\n")[0].removeprefix("#!")
    subprocess.run([shell, "-n", str(path)], check=True)


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name
)
def test_workflow_matches_schema(path: Path) -> None:
    command = ["check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    subprocess.run([sys.executable, "-m", *command], check=True)


def test_pre_commit_configuration_is_valid() -> None:
    path = ROOT / ".pre-commit-config.yaml"
    subprocess.run([sys.executable, "-m", "pre_commit", "validate-config", str(path)], check=True)


def hints(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every literal hint of a source. "{}" replaces an f-string's values."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.keyword) or node.arg != "hint":
            continue
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.lineno, node.value.value
        elif isinstance(node.value, ast.JoinedStr):
            parts = node.value.values
            texts = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts]
            yield node.value.lineno, "".join(texts)


def test_hints_are_lower_case_imperatives_without_full_stop() -> None:
    folders = [ROOT / name for name in ("harness", "images", "reports")]
    paths = sorted(path for folder in folders for path in folder.rglob("*.py"))
    literals = [(path, line, hint) for path in paths for line, hint in hints(path)]
    assert len(literals) > 80
    # a word with a second capital letter, such as PATH, is a name
    capitalised = re.compile(r"[A-Z](?![A-Z])")
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {hint}"
        for path, line, hint in literals
        if not hint.strip() or capitalised.match(hint) or hint.endswith(".")
    ]
    assert wrong == []


def imported(path: Path) -> Iterator[str]:
    """The modules that a source asks for, by their full names."""
    for node in ast.walk(ast.parse(path.read_text(), str(path), feature_version=(3, 9))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            within = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (".".join((*within, name)) for name in names)


@pytest.mark.parametrize("room", SHIPPED)
def test_what_is_shipped_is_python_3_9_and_imports_nothing_else(room: str) -> None:
    for path in (ROOT / "harness" / room).rglob("*.py"):
        for name in imported(path):
            top, *inner = name.split(".")
            assert top in sys.stdlib_module_names or (
                top == "harness" and inner[0] in SHIPPED[room]
            )
