"""The parser of unittests.cfg, the list of tests. Format: docs/unittests.txt."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import HarnessError

LIST_NAME = "unittests.cfg"
TIMEOUT = 90.0  # seconds, the default
_SECTION = re.compile(r"\[(.+)\]")
_FIELD = re.compile(r"(\w+)\s*=\s*(.*)")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MULTILINE = '"""'


class ListError(HarnessError):
    """A list that cannot be parsed. The cause names the line."""


@dataclass
class Entry:
    """One section of the list. line: its number, from 1. timeout: seconds, 0 for no limit."""

    name: str
    line: int
    file: Path = Path()
    smp: str = "1"
    parameters: str = ""
    arguments: str = ""
    groups: tuple[str, ...] = ()
    arch: str = ""
    accel: str = ""
    timeout: float = TIMEOUT
    checks: list[str] = field(default_factory=list)


def find_list(folder: Path) -> tuple[Path | None, Path]:
    """Find the list in a folder, or None, and the folder of the test files."""
    for candidate in (folder, folder / "x86"):
        if (candidate / LIST_NAME).is_file():
            built = any(candidate.glob("*.flat"))
            has_x86 = (folder / "x86").is_dir()
            return candidate / LIST_NAME, candidate if built or not has_x86 else folder / "x86"
    return None, folder


def parse_list(text: str, folder: Path) -> list[Entry]:
    """Parse a list whose test files are in `folder`. Raises ListError."""
    if "\0" in text:
        raise ListError(
            "the list is not a text file", hint="restore unittests.cfg from kvm-unit-tests"
        )
    entries: list[Entry] = []
    lines = enumerate(text.splitlines(), 1)
    for number, raw in lines:
        line = _without_comment(raw)
        if match := _SECTION.fullmatch(line):
            entries.append(Entry(match[1].strip(), number))
        elif (match := _FIELD.fullmatch(line)) and entries:
            value = match[2]
            if value.startswith(_MULTILINE):
                value = value.removeprefix(_MULTILINE)
                while _MULTILINE not in value:
                    _, more = next(lines, (0, None))
                    if more is None:
                        raise ListError(
                            f"line {number}: the text that begins here does not end",
                            hint=f"end it with {_MULTILINE}",
                        )
                    value += f"\n{more}"
                value = value.partition(_MULTILINE)[0]
            _set_field(entries[-1], match[1], value, number, folder)
    for entry in entries:
        if not entry.file.name:
            raise ListError(
                f"line {entry.line}: the test {entry.name!r} has no file",
                hint="add a line such as file = cpuid.flat",
            )
    return entries


def _without_comment(line: str) -> str:
    return re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()


def _set_field(entry: Entry, name: str, value: str, number: int, folder: Path) -> None:
    """Set one field. Fields of other architectures and runners are ignored."""
    if name == "file":
        if "/" in value or value in ("", ".", ".."):
            raise ListError(
                f"line {number}: file {value!r} is not a file name",
                hint="write the name of a file in the list's folder",
            )
        entry.file = folder / value
    elif name == "timeout":
        entry.timeout = _seconds(value, number)
    elif name == "groups":
        entry.groups = tuple(value.split())
    elif name == "check":
        entry.checks += value.split()
    elif name in ("extra_params", "qemu_params"):
        entry.parameters = value
    elif name == "test_args":
        entry.arguments = value
    elif name in ("smp", "arch", "accel"):
        setattr(entry, name, value)


def _seconds(text: str, number: int) -> float:
    match = _DURATION.fullmatch(text)
    if not match:
        raise ListError(
            f"line {number}: timeout {text!r} is not a duration",
            hint="write a number of seconds, minutes or hours, such as 90s, 2m or 1h",
        )
    return float(match[1]) * _SECONDS[match[2]]
