"""The search for the knee, over hosts whose capacity is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from suites.consolidation.judge import Outcome
from suites.consolidation.search import Knee, find_knee, most_pass


class KnownHost:
    """Passes up to `capacity` tiles; `answers` override single measurements in order."""

    def __init__(self, capacity: int, answers: dict[int, list[Outcome]] | None = None) -> None:
        self.capacity = capacity
        self.answers = {n: iter(list(outcomes)) for n, outcomes in (answers or {}).items()}
        self.measured: list[tuple[int, bool]] = []

    def __call__(self, tiles: int, *, fresh: bool) -> Outcome:
        self.measured.append((tiles, fresh))
        own: Iterator[Outcome] = self.answers.get(tiles, iter(()))
        return next(own, "pass" if tiles <= self.capacity else "fail")


def no_limit(tiles: int) -> str:
    return ""


@pytest.mark.parametrize("growth", ["by half", "doubling"])
@pytest.mark.parametrize("capacity", [0, 1, 2, 3, 7, 8, 50])
def test_knee_of_exact_host_is_its_capacity(growth: str, capacity: int) -> None:
    host = KnownHost(capacity)
    knee = find_knee(host, no_limit, growth=growth)  # type: ignore[arg-type]
    assert (knee.tiles, knee.lowest, knee.highest) == (capacity, capacity, capacity)
    assert knee.limited_by == ""
    assert (capacity + 1, True) in host.measured  # confirmed with fresh guests


def test_doubling_measures_few_points() -> None:
    host = KnownHost(50)
    find_knee(host, no_limit, growth="doubling", rounds=0)
    assert len({tiles for tiles, _ in host.measured}) <= 13
    assert max(tiles for tiles, _ in host.measured) == 64


def test_confirmation_alternates_the_pair() -> None:
    host = KnownHost(3)
    find_knee(host, no_limit, growth="doubling")
    # the search has measured 4 twice, the second time with new guests
    assert host.measured == [
        *((n, False) for n in (1, 2, 4)),
        (4, True),
        (3, False),
        *((n, True) for n in (3, 4, 3, 3, 4)),
    ]


def test_what_was_measured_with_new_guests_is_not_confirmed_again() -> None:
    host = KnownHost(1)
    knee = find_knee(host, no_limit, known=1, known_fresh=True)
    assert host.measured == [(2, False), (2, True)]
    assert (knee.tiles, knee.lowest, knee.highest) == (1, 1, 1)


def test_one_failure_is_outvoted_by_two_passes() -> None:
    host = KnownHost(4, {2: ["fail", "pass"]})
    knee = find_knee(host, no_limit, rounds=0)
    assert knee.tiles == 4
    assert [n for n, _ in host.measured] == [1, 2, 2, 2, 3, 4, 6, 6, 5, 5]


def test_next_number_that_passes_the_confirmation_moves_the_knee() -> None:
    host = KnownHost(4, {4: ["fail", "fail"]})
    knee = find_knee(host, no_limit, growth="by half", rounds=3)
    assert (knee.tiles, knee.highest) == (4, 4)
    assert (5, True) in host.measured


def test_tie_of_the_reference_and_one_failure_is_decided() -> None:
    host = KnownHost(1, {1: ["fail", "pass"]})
    knee = find_knee(host, no_limit, known=1, rounds=1)
    assert (knee.tiles, knee.lowest, knee.highest) == (1, 0, 1)


def test_refuted_knee_is_searched_downwards() -> None:
    """The bisection never measured 19, as 20 seemed to pass."""
    host = KnownHost(19, {20: ["pass"]})
    knee = find_knee(host, no_limit, growth="doubling")
    assert (knee.tiles, knee.highest) == (19, 20)


def test_memory_that_blocks_a_doubled_step_does_not_hide_what_fits() -> None:
    host = KnownHost(100)
    knee = find_knee(host, lambda tiles: "memory" if tiles > 50 else "", growth="doubling")
    assert (knee.tiles, knee.limited_by) == (50, "memory")


def test_interval_spans_verdicts_that_disagree() -> None:
    knee = Knee([(1, "pass"), (2, "fail"), (2, "pass"), (2, "pass"), (3, "fail"), (3, "fail")])
    assert (knee.tiles, knee.lowest, knee.highest) == (2, 1, 2)


def test_invalid_point_is_repeated_once_then_ends_the_search() -> None:
    host = KnownHost(9, {2: ["invalid", "pass"], 3: ["invalid", "invalid"]})
    knee = find_knee(host, no_limit, rounds=0)
    assert knee.tiles == 2
    assert knee.limited_by == "3 tiles could not be measured: the points are invalid"


def test_invalid_is_neither_pass_nor_fail() -> None:
    knee = Knee([(1, "invalid")])
    assert (knee.tiles, knee.lowest, knee.highest) == (0, 0, 0)


def test_memory_ends_the_search_and_is_named() -> None:
    def memory(tiles: int) -> str:
        return "memory: too little" if tiles > 2 else ""

    host = KnownHost(9)
    knee = find_knee(host, memory)
    assert (knee.tiles, knee.limited_by) == (2, "memory: too little")
    assert max(n for n, _ in host.measured) == 2


def noisy(capacity: float, generator: random.Random) -> Callable[..., Outcome]:
    """A host whose verdict near its capacity is a matter of chance."""

    def measure(tiles: int, *, fresh: bool) -> Outcome:
        return "pass" if tiles < capacity + generator.gauss(0, 0.7) else "fail"

    return measure


def test_two_searches_on_a_noisy_host_agree() -> None:
    generator = random.Random(7)  # noqa: S311 - noise
    knees = [find_knee(noisy(20.0, generator), no_limit, growth="doubling") for _ in range(40)]
    assert {knee.tiles for knee in knees} <= {18, 19, 20, 21}
    assert any(knee.lowest < knee.highest for knee in knees)
    assert all(knee.lowest <= knee.tiles <= knee.highest for knee in knees)


@pytest.mark.parametrize(
    ("outcomes", "passes"),
    [
        (["pass"], True),
        (["fail", "fail"], False),
        (["fail", "pass", "pass"], True),
        (["fail", "pass", "fail", "pass"], False),
        (["invalid", "pass"], True),
        (["invalid", "invalid"], False),
    ],
)
def test_most_pass_measures_until_one_side_leads(outcomes: list[Outcome], passes: bool) -> None:
    left = iter(outcomes)
    assert most_pass(lambda: next(left)) is passes
    assert list(left) == []


def test_knee_below_a_refuted_one_is_confirmed_with_new_guests() -> None:
    """Tiles that were added one by one passed at 4, and new ones do not."""

    def measure(tiles: int, *, fresh: bool) -> Outcome:
        measured.append((tiles, fresh))
        return "pass" if tiles < 4 or (tiles == 4 and not fresh) else "fail"

    measured: list[tuple[int, bool]] = []
    knee = find_knee(measure, no_limit, known=1, known_fresh=True)
    assert (knee.tiles, knee.lowest, knee.highest) == (3, 3, 4)
    assert (3, True) in measured


def test_invalid_points_end_the_confirmation() -> None:
    host = KnownHost(3, {3: ["pass", "invalid", "invalid", "invalid", "invalid"]})
    knee = find_knee(host, no_limit, rounds=3)
    assert (knee.tiles, knee.undecided) == (3, True)
    assert knee.limited_by == "3 tiles could not be measured: the points are invalid"


def test_limit_is_named_only_if_nothing_failed_before_it() -> None:
    def memory(tiles: int) -> str:
        return "memory" if tiles > 4 else ""

    refuted = find_knee(KnownHost(3, {4: ["pass"]}), memory)
    assert (refuted.tiles, refuted.limited_by) == (3, "")
    reached = find_knee(KnownHost(9, {4: ["fail", "fail"]}), memory, rounds=3)
    assert (reached.tiles, reached.limited_by) == (4, "memory")
