"""The console's file: all lines, but for a flood, of which it has the beginning and the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.guest.console import Console


def test_all_lines_are_in_the_file(tmp_path: Path) -> None:
    console = Console(tmp_path / "deep" / "c.log")
    for number in range(5):
        console.add(number * 1_500_000_000, f"line {number}")
    console.close()
    lines = (tmp_path / "deep" / "c.log").read_text().splitlines()
    assert lines[0] == "[  0.000000] line 0"
    assert lines[4] == "[  6.000000] line 4"
    assert len(lines) == 5


def test_a_line_has_its_time() -> None:
    console = Console(max_lines=3)
    for number in range(5):
        console.add(number, f"line {number}")
    console.add(7, "line 4 again")
    assert (console.time_of("line 3"), console.time_of("line 4")) == (3, 7)
    for text in ("line 1", "line 9"):
        with pytest.raises(KeyError):
            console.time_of(text)


def test_a_flood_does_not_fill_the_disk(tmp_path: Path) -> None:
    console = Console(tmp_path / "c.log", max_lines=3, max_bytes=1000)
    for number in range(10_000):
        console.add(0, f"line {number}")
    assert (tmp_path / "c.log").stat().st_size < 1100
    console.close()
    lines = (tmp_path / "c.log").read_text().splitlines()
    assert lines[0].endswith("line 0")
    assert lines[-3:] == ["line 9997", "line 9998", "line 9999"]
    written = len(lines) - 4
    assert lines[written] == (
        f"[... 1000 bytes are enough: {10_000 - 3 - written} lines are left out ...]"
    )


def test_no_line_is_twice_in_a_file_that_was_just_full(tmp_path: Path) -> None:
    console = Console(tmp_path / "c.log", max_lines=100, max_bytes=60)
    for number in range(5):
        console.add(0, f"line {number}")
    console.close()
    text = (tmp_path / "c.log").read_text()
    assert "0 lines are left out" in text
    assert all(text.count(f"line {number}\n") == 1 for number in range(5))
