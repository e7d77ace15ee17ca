"""Marks of the boot stages, and a host with another clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.guest.console import Console
from harness.guest.timeline import Timeline


class Clock:
    def __init__(self, now: int = 0) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def test_seconds_count_from_create_and_the_first_mark_stays() -> None:
    timeline = Timeline(Clock())
    timeline.mark("create", 1_000_000_000)
    timeline.mark("kernel", 1_250_000_000)
    timeline.mark("kernel", 9_000_000_000)
    assert timeline.seconds("kernel") == 0.25
    assert timeline.next_stage == "init"
    assert timeline.lines()[1:3] == ["kernel     0.250 s", "init    not reached"]
    timeline.mark("sshd", 2_000_000_000)
    late = timeline.lines()[2:]
    assert late == ["init    not reported", "sshd       1.000 s", "ready   not reached"]


def test_read_line_finds_marks() -> None:
    timeline = Timeline(Clock())
    assert timeline.read_line(5, "[    1.2] harness: init 123456789") == "init"
    assert timeline.read_line(7, "harness: sshd 200000000") == "sshd"
    assert timeline.read_line(8, "harness: sshd") is None
    assert timeline.read_line(9, "harness: ready 3") is None  # only SSH reports "ready"
    assert timeline.marks == {"init": 5, "sshd": 7}
    assert timeline.guest_clock == {"init": 123456789, "sshd": 200000000}


def test_unknown_stage_is_an_error() -> None:
    with pytest.raises(ValueError, match="'bios' is not a boot stage"):
        Timeline().mark("bios", 1)


def test_stage_that_was_not_reached_has_no_time() -> None:
    timeline = Timeline(Clock())
    timeline.mark("create", 1)
    with pytest.raises(KeyError):
        timeline.seconds("ready")


def test_now_uses_the_smallest_delay_of_the_stamps() -> None:
    # The host's clock is 1 s behind; stamps take 40, 3 and 90 ms to arrive.
    clock = Clock()
    timeline = Timeline(clock)
    assert timeline.now() == 0
    for stamp_ms, delay_ms in ((100, 40), (200, 3), (300, 90)):
        clock.now = (1_000 + stamp_ms + delay_ms) * 1_000_000
        timeline.stamp(stamp_ms * 1_000_000)
    clock.now = 1_500 * 1_000_000
    assert timeline.now() == (500 - 3) * 1_000_000


def test_discarded_console_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "guest.log"
    console = Console(path, max_lines=2)
    for number in range(3):
        console.add(number * 500_000_000, f"line {number}")
    assert console.tail(5) == ["line 1", "line 2"]
    assert len(console) == 3
    assert path.read_text().splitlines()[2] == "[  1.000000] line 2"
    assert console.wait_for("line 2", 0) == "line 2"
    with pytest.raises(TimeoutError, match="no console line with 'line 0'"):
        console.wait_for("line 0", 0.01)
    console.close(discard=True)
    assert not path.exists()
    console.add(0, "after the end")  # a late line of a reader thread is ignored
