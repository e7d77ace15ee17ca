"""The list of tests, unittests.cfg, read (docs/unittests.txt of kvm-unit-tests has its format)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

LIST = "unittests.cfg"
TIMEOUT = 90.0  # seconds, when a test says nothing
_SECTION = re.compile(r"\[(.+)\]")
_FIELD = re.compile(r"(\w+)\s*=\s*(.*)")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MULTILINE = '"""'


class ListError(ValueError):
    """A list that cannot be read; the text names the line."""


@dataclass
class Entry:
    """One section, as it stands there. line: its number, from 1. timeout: seconds, 0 for none."""

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


def find(folder: Path) -> tuple[Path | None, Path]:
    """The list below a folder, None for no list, and the folder that its files are in."""
    for place in (folder, folder / "x86"):
        if (place / LIST).is_file():
            built = any(place.glob("*.flat"))
            return place / LIST, place if built or not (folder / "x86").is_dir() else folder / "x86"
    return None, folder


def read(text: str, folder: Path) -> list[Entry]:
    """The tests of a list, their files in `folder`. Raises ListError."""
    if "\0" in text:
        raise ListError("it is no text")
    entries: list[Entry] = []
    lines = enumerate(text.splitlines(), 1)
    for number, raw in lines:
        line = _without_comment(raw)
        if found := _SECTION.fullmatch(line):
            entries.append(Entry(found[1].strip(), number))
        elif (found := _FIELD.fullmatch(line)) and entries:
            value = found[2]
            if value.startswith(_MULTILINE):
                value = value.removeprefix(_MULTILINE)
                while _MULTILINE not in value:
                    _, more = next(lines, (0, None))
                    if more is None:
                        raise ListError(f"line {number}: the text that begins here has no end")
                    value += f"\n{more}"
                value = value.partition(_MULTILINE)[0]
            _set(entries[-1], found[1], value, number, folder)
    for entry in entries:
        if not entry.file.name:
            raise ListError(f"line {entry.line}: the test {entry.name!r} has no file")
    return entries


def _without_comment(line: str) -> str:
    return re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()


def _set(entry: Entry, name: str, value: str, number: int, folder: Path) -> None:
    """Take one field; those of other architectures and runners mean nothing here."""
    if name == "file":
        if "/" in value or value in ("", ".", ".."):
            raise ListError(f"line {number}: file {value!r} is no file name")
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
    found = _DURATION.fullmatch(text)
    if not found:
        raise ListError(f"line {number}: timeout {text!r} is no duration")
    return float(found[1]) * _SECONDS[found[2]]
