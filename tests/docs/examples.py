"""The Python examples of README.md and docs/: each block is a module of tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    """A block of Python of one page.

    name: of the page, and the block's number there.
    """

    name: str
    source: str

    @property
    def test_count(self) -> int:
        return len(re.findall(r"^def test_", self.source, re.MULTILINE))

    @property
    def boots_kernel(self) -> bool:
        """Whether its guests boot a kernel; otherwise they are payloads."""
        return "payload(" not in self.source


def blocks(path: Path, language: str) -> list[str]:
    """The contents of a page's fenced blocks in a language."""
    matches = _BLOCK.finditer(path.read_text(encoding="utf-8"))
    return [match[2] for match in matches if match[1] == language]


def all_examples() -> list[Example]:
    return [
        Example(f"{path.stem}-{number}", source)
        for path in PAGES
        for number, source in enumerate(blocks(path, "python"))
    ]


def examples(*, boots_kernel: bool) -> list[Example]:
    """The examples that have tests, of one kind of guest."""
    return [one for one in all_examples() if one.test_count and one.boots_kernel is boots_kernel]
