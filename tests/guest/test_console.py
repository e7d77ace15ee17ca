"""The console: lines in memory and in a file of limited size."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.guest.console import Console


def test_file_has_all_lines(tmp_path: Path) -> None:
    console = Console(tmp_path / "deep" / "c.log")
    for number in range(5):
        console.add(number * 1_500_000_000, f"line {number}")
    console.close()
    lines = (tmp_path / "deep" / "c.log").read_text().splitlines()
    assert lines[0] == "[  0.000000] line 0"
    assert lines[4] == "[  6.000000] line 4"
    assert len(lines) == 5


def test_time_of_finds_the_last_matching_line() -> None:
    console = Console(max_lines=3)
    for number in range(5):
        console.add(number, f"line {number}")
    console.add(7, "line 4 again")
    assert (console.time_of("line 3"), console.time_of("line 4")) == (3, 7)
    for text in ("line 1", "line 9"):
        with pytest.raises(KeyError):
            console.time_of(text)


def test_file_size_is_limited(tmp_path: Path) -> None:
    console = Console(tmp_path / "c.log", max_lines=3, max_bytes=1000)
    for number in range(10_000):
        console.add(0, f"line {number}")
    assert (tmp_path / "c.log").stat().st_size < 1100
    console.close()
    lines = (tmp_path / "c.log").read_text().splitlines()
    assert lines[0].endswith("line 0")
    assert lines[-3:] == ["line 9997", "line 9998", "line 9999"]
    written = len(lines) - 4
    assert lines[written] == (f"[... 1000 bytes reached: {10_000 - 3 - written} lines omitted ...]")


def test_full_file_repeats_no_line(tmp_path: Path) -> None:
    console = Console(tmp_path / "c.log", max_lines=100, max_bytes=60)
    for number in range(5):
        console.add(0, f"line {number}")
    console.close()
    text = (tmp_path / "c.log").read_text()
    assert "0 lines omitted" in text
    assert all(text.count(f"line {number}\n") == 1 for number in range(5))
