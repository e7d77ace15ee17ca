"""The search for the knee: the largest number of tiles with every guest within its limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from reports import text
from suites.consolidation.judge import Outcome

Growth = Literal["by half", "doubling"]
MAX_INVALID = 2
MAX_REPEATS = 4  # of one number, in case passes and failures balance
CONFIRM_ROUNDS = {"by half": 1, "doubling": 3}


class Measure(Protocol):
    def __call__(self, tiles: int, *, fresh: bool) -> Outcome:
        """Measure `tiles` tiles. fresh: deploy all of them anew."""


@dataclass
class Knee:
    """The result of a search.

    tiles: the highest number that passes most of its measurements; 0 if 1 does not. lowest: the
    highest number below every failure. highest: the highest number that ever passed. outcomes: of
    all measurements, in order. limited_by: why the search did not go on to a failure, or "": the
    knee is then at least `tiles`. undecided: the points of some number are invalid. fresh: how
    often a number was measured with new guests.
    """

    outcomes: list[tuple[int, Outcome]] = field(default_factory=list)
    limited_by: str = ""
    undecided: bool = False
    fresh: Counter[int] = field(default_factory=Counter)

    def measure(self, measure: Measure, tiles: int, *, fresh: bool) -> Outcome:
        """Measure `tiles` tiles, and keep the outcome."""
        outcome = measure(tiles, fresh=fresh)
        self.outcomes.append((tiles, outcome))
        self.fresh[tiles] += fresh and outcome != "invalid"
        return outcome

    def give_up(self, tiles: int) -> None:
        """End the search at a number whose points are invalid."""
        number = text.count(tiles, "tile")
        self.limited_by = f"{number} could not be measured: the points are invalid"
        self.undecided = True

    def passes(self, tiles: int) -> bool:
        """Whether most of its valid measurements passed."""
        return self.lead(tiles) > 0

    def lead(self, tiles: int) -> int:
        """By how many its passes are more than its failures."""
        outcomes = [outcome for n, outcome in self.outcomes if n == tiles]
        return outcomes.count("pass") - outcomes.count("fail")

    @property
    def tiles(self) -> int:
        return max((n for n, _ in self.outcomes if self.passes(n)), default=0)

    @property
    def lowest(self) -> int:
        failed = [n for n, outcome in self.outcomes if outcome == "fail"]
        return min(self.tiles, min(failed) - 1) if failed else self.tiles

    @property
    def highest(self) -> int:
        passed = [n for n, outcome in self.outcomes if outcome == "pass"]
        return max(passed, default=0)


def find_knee(
    measure: Measure,
    limit: Callable[[int], str],
    *,
    growth: Growth = "by half",
    rounds: int | None = None,
    known: int = 0,
    known_fresh: bool = False,
) -> Knee:
    """Search upwards, then confirm the knee and the next number, deployed anew.

    growth: of the number of tiles, until one fails; "by half" has 1, 2, 3, 4, 6, 9. limit: the
    reason why so many tiles cannot be deployed, or "". rounds: how often the knee and
    the next number are measured with new guests, in alternation; earlier such measurements count.
    known: this number has passed already, as the reference; known_fresh: with new guests each time.
    A failure is measured again, with new guests, before it ends the search. A number whose points
    are invalid MAX_INVALID times ends it, too.
    """
    rounds = CONFIRM_ROUNDS[growth] if rounds is None else rounds
    knee = Knee([(known, "pass")] if known else [])
    knee.fresh[known] = rounds if known_fresh else 0
    good, tiles = known, known + 1
    while not (reason := limit(tiles)) and _decide(knee, measure, tiles):
        good = tiles
        tiles += tiles if growth == "doubling" else max(1, tiles // 2)
    blocked, knee.limited_by = tiles, reason or knee.limited_by
    while not knee.undecided and blocked - good > 1:
        middle = (good + blocked) // 2
        if reason := limit(middle):
            knee.limited_by, blocked = reason, middle
        elif _decide(knee, measure, middle):
            good = middle
        else:
            blocked, knee.limited_by = middle, ""
    _confirm(knee, measure, limit, rounds)
    if not knee.undecided:
        knee.limited_by = "" if knee.lead(knee.tiles + 1) < 0 else limit(knee.tiles + 1)
    return knee


def _decide(knee: Knee, measure: Measure, tiles: int, *, fresh: bool = False) -> bool:
    """Measure until a pass leads, or two failures do; see find_knee() for invalid points."""
    invalid = 0
    while invalid < MAX_INVALID:
        invalid += knee.measure(measure, tiles, fresh=fresh) == "invalid"
        fresh = True  # a repetition of the same deployment would repeat its luck, too
        if knee.lead(tiles) > 0 or knee.lead(tiles) <= -2:
            return knee.lead(tiles) > 0
        if len([n for n, _ in knee.outcomes if n == tiles]) >= MAX_REPEATS:
            return False
    knee.give_up(tiles)
    return False


def most_pass(measure: Callable[[], Outcome]) -> bool:
    """Whether a pass leads: a failure is measured again before it counts. Invalid points that do
    not end say no."""

    def measure_any(tiles: int, *, fresh: bool) -> Outcome:
        return measure()

    return _decide(Knee(), measure_any, 0)


def _measure_valid(knee: Knee, measure: Measure, tiles: int) -> None:
    """Measure with new guests; again after an invalid point, which does not count."""
    for _ in range(MAX_INVALID):
        if knee.measure(measure, tiles, fresh=True) != "invalid":
            return
    knee.give_up(tiles)


def _confirm(knee: Knee, measure: Measure, limit: Callable[[int], str], rounds: int) -> None:
    """Measure the knee and the next number with new guests, in alternation, until both are certain.

    A next number that passes is the new knee; a knee that fails leaves the number below it.
    """
    while rounds and not knee.undecided:
        pair = [n for n in (knee.tiles, knee.tiles + 1) if n > 0 and not limit(n)]
        done = min((knee.fresh[n] for n in pair), default=rounds)
        if done < rounds:
            due = [n for n in pair if knee.fresh[n] == done]
            for n in due if done % 2 == 0 else reversed(due):
                _measure_valid(knee, measure, n)
            continue
        # A tie, such as the reference's pass and one failure, is decided by further measurements.
        ties = [n for n in pair if knee.lead(n) == 0 and (n, "pass") in knee.outcomes]
        if not ties:
            break
        _decide(knee, measure, ties[0], fresh=True)
