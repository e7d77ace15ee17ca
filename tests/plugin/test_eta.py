"""How long the rest takes."""

from __future__ import annotations

from harness.plugin.eta import INTERVAL, TimeEstimate


def test_the_rest_takes_what_its_like_took() -> None:
    now = [0.0]
    left = TimeEstimate(["a"] * 4 + ["b"] * 2 + ["c"], lambda: now[0])
    assert left.seconds == 0.0, "nothing is known yet"
    told = []
    for kind, took in (("a", 10.0), ("b", 40.0), ("a", 20.0)):
        now[0] += took
        told.append(left.finish(kind))
    # two of a at 15 s, one of b at 40 s, and c as long as the median of 15 and 40
    assert left.seconds == 2 * 15 + 40 + 27.5
    assert told == ["", "", "3 of 7 tests in 70 s, about 2 min left"]


def test_it_is_told_once_in_a_while_and_not_at_the_end() -> None:
    now = [0.0]
    left = TimeEstimate(["a"] * 5, lambda: now[0])
    told = []
    for _ in range(5):
        now[0] += INTERVAL / 2
        told.append(left.finish("a"))
    assert [bool(line) for line in told] == [False, True, False, True, False]


def test_a_test_that_runs_twice_is_no_harm() -> None:
    left = TimeEstimate(["a"])
    left.finish("a")
    left.finish("a")
    assert left.seconds == 0.0
