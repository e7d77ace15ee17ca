"""The names that README.md and docs/ mention exist: options, commands, files and modules."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from harness.__main__ import parser
from harness.plugin.options import OPTIONS
from tests.docs.examples import PAGES, ROOT, blocks

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEXTS = (*PAGES, ROOT / "CONTRIBUTING.md", *WORKFLOWS)
ROOMS = "harness|images|reports|suites|tests|benchmarks|examples|docs"


def commands(path: Path) -> list[str]:
    """The arguments of each `python -m harness` in a text, one line each."""
    lines = re.findall(r"python -m harness +([^`|\n]+)", path.read_text())
    return [line.partition("  #")[0].strip() for line in lines]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_options_of_plugin_exist(path: Path) -> None:
    mentioned = set(re.findall(r"(--(?:virt|guest|hypervisor)[a-z-]*)", path.read_text()))
    families = {"--virt-", "--guest-"}  # as in `--virt-*`
    suites = set(re.findall(r'"(--virt-[a-z-]+)"', (ROOT / "suites" / "conftest.py").read_text()))
    assert mentioned - {option.flag for option in OPTIONS} - suites - families == set()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_names_of_ini_file_exist(path: Path) -> None:
    mentioned = set(re.findall(r"^(\w+) *=", "\n".join(blocks(path, "ini")), re.MULTILINE))
    assert mentioned - {option.ini for option in OPTIONS} - {"addopts", "markers"} == set()


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_commands_of_harness_are_valid(path: Path) -> None:
    for line in commands(path):
        words = shlex.split(line)
        if words[0] == "COMMAND":
            continue
        if len(words) == 1:  # its name only, in a sentence
            words.append("--help")
            with pytest.raises(SystemExit, match=r"^0$"):
                parser().parse_args(words)
        else:
            assert callable(parser().parse_args(words).run), line


def test_nightly_workflow_and_guide_have_commands() -> None:
    assert len(commands(ROOT / "docs" / "nightly.md")) >= 4
    assert len(commands(ROOT / ".github" / "workflows" / "nightly.yml")) >= 2


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_files_exist(path: Path) -> None:
    mentioned = re.findall(rf"(?<![\w/.-])(?:{ROOMS})/[\w./-]*\w/?", path.read_text())
    assert [name for name in mentioned if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_modules_exist(path: Path) -> None:
    for name in re.findall(r"\b(?:harness|images|reports)(?:\.\w+)+", path.read_text()):
        if name in ("harness.hypervisors", "harness.disks"):  # entry points, a kernel option
            continue
        assert _importable(name), name


def _importable(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute) or bool(
            importlib.util.find_spec(name)
        )
    except ModuleNotFoundError:
        return False
