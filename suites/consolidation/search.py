"""The search for the knee: the largest number of tiles with every guest within its limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from suites.consolidation.judge import Outcome

Growth = Literal["by one", "doubling"]
CONFIRM_ROUNDS = {"by one": 1, "doubling": 3}


class Measure(Protocol):
    def __call__(self, tiles: int, *, fresh: bool) -> Outcome:
        """Measure `tiles` tiles. fresh: deploy all of them anew."""


@dataclass
class Knee:
    """The result of a search.

    tiles: the highest number that passes most of its measurements; 0 if 1 does not. lowest: the
    highest number below every failure. highest: the highest number that ever passed. outcomes: of
    all measurements, in order. limited_by: why the search did not go on to a failure, or "".
    """

    outcomes: list[tuple[int, Outcome]] = field(default_factory=list)
    limited_by: str = ""

    def add(self, tiles: int, outcome: Outcome) -> None:
        self.outcomes.append((tiles, outcome))

    def passes(self, tiles: int) -> bool:
        """Whether most of its valid measurements passed."""
        outcomes = [outcome for n, outcome in self.outcomes if n == tiles]
        return outcomes.count("pass") > outcomes.count("fail")

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
    growth: Growth = "by one",
    rounds: int | None = None,
    known: int = 0,
) -> Knee:
    """Search upwards, then confirm the knee and the next number, deployed anew.

    limit: the reason why so many tiles cannot be deployed, or "". rounds: how often the knee and
    the next number are measured again, in alternation. known: this number has passed already, as
    the reference. An invalid point is measured once more; if it is invalid again, the search ends
    there.
    """
    knee = Knee([(known, "pass")] if known else [])

    def passes(tiles: int, fresh: bool = False) -> bool | None:
        """None: it cannot be known."""
        for _ in range(2):
            outcome = measure(tiles, fresh=fresh)
            knee.add(tiles, outcome)
            if outcome == "pass":
                return True
            # A failure is confirmed before it ends the search.
            if [one for n, one in knee.outcomes if n == tiles].count("fail") > 1:
                return False
        return None if outcome == "invalid" else False

    good, bad, tiles = known, 0, known + 1
    while True:
        if reason := limit(tiles):
            knee.limited_by = reason
            break
        passed = passes(tiles)
        if passed is None:
            knee.limited_by = f"{tiles} tiles could not be measured: the points are invalid"
            break
        if not passed:
            bad = tiles
            break
        good = tiles
        tiles = tiles + 1 if growth == "by one" else tiles * 2
    while bad - good > 1:
        middle = (good + bad) // 2
        passed = passes(middle)
        if passed is None:
            knee.limited_by = f"{middle} tiles could not be measured: the points are invalid"
            break
        good, bad = (middle, bad) if passed else (good, middle)
    _confirm(knee, measure, limit, CONFIRM_ROUNDS[growth] if rounds is None else rounds)
    return knee


def _confirm(knee: Knee, measure: Measure, limit: Callable[[int], str], rounds: int) -> None:
    tiles = knee.tiles
    for number in range(rounds):
        pair = [n for n in (tiles, tiles + 1) if n > 0 and not limit(n)]
        for n in pair if number % 2 == 0 else reversed(pair):
            knee.add(n, measure(n, fresh=True))
