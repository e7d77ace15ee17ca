"""The examples of docs/: each block of Python is a module of tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    """tests: how many it has. kernel: whether its guests boot one."""

    name: str
    source: str

    @property
    def tests(self) -> int:
        return len(re.findall(r"^def test_", self.source, re.MULTILINE))

    @property
    def kernel(self) -> bool:
        return "payload(" not in self.source


def examples(kernel: bool) -> list[Example]:
    """Those of guests with a kernel, or of payloads."""
    found = [
        Example(f"{path.stem}-{number}", match[1])
        for path in sorted(DOCS.glob("*.md"))
        for number, match in enumerate(_BLOCK.finditer(path.read_text(encoding="utf-8")))
    ]
    return [one for one in found if one.kernel is kernel]
