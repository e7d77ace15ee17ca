"""The estimate of the remaining time."""

from __future__ import annotations

from harness.plugin.eta import INTERVAL, TimeEstimate
from tests.plugin.conftest import Run


def test_estimate_uses_durations_of_the_same_kind() -> None:
    now = [0.0]
    left = TimeEstimate(["a"] * 4 + ["b"] * 2 + ["c"], lambda: now[0])
    assert left.seconds == 0.0, "nothing is known yet"
    lines = []
    for kind, took in (("a", 10.0), ("b", 40.0), ("a", 20.0)):
        now[0] += took
        lines.append(left.finish(kind))
    # two of a at 15 s, one of b at 40 s, and c as long as the median of 15 and 40
    assert left.seconds == 2 * 15 + 40 + 27.5
    assert lines == ["", "", "3 of 7 tests in 70 s, about 2 min left"]


def test_line_is_printed_once_in_an_interval_and_not_at_the_end() -> None:
    now = [0.0]
    left = TimeEstimate(["a"] * 5, lambda: now[0])
    lines = []
    for _ in range(5):
        now[0] += INTERVAL / 2
        lines.append(left.finish("a"))
    assert [bool(line) for line in lines] == [False, True, False, True, False]


def test_kind_may_finish_more_often_than_expected() -> None:
    left = TimeEstimate(["a"])
    left.finish("a")
    left.finish("a")
    assert left.seconds == 0.0


def test_progress_begins_a_new_line_after_dots(run: Run) -> None:
    source = """
        def test_one(): pass
        def test_two(harness_session): harness_session.progress("now")
        def test_three(): pass
    """
    for verbosity in ("-q", "-v", "--color=no"):
        lines = [line for line in run(source, verbosity).outlines if "harness: " in line]
        assert lines[-1] == "harness: now", verbosity
        assert [line for line in lines if not line.startswith("harness: ")] == []
