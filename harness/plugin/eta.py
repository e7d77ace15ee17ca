"""How long the tests that are still to come will take, by what their like took."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable

EVERY = 60.0  # seconds between two estimates


class TimeLeft:
    """kinds: of the tests to come, one each: tests of one kind (a function's parameters) take about
    the same time. clock: seconds."""

    def __init__(self, kinds: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._left = Counter(kinds)
        self._all = self._left.total()
        self._took: dict[str, list[float]] = {}
        self._clock = clock
        self._start = self._last = self._told = clock()

    def done(self, kind: str) -> str:
        """One has ended. A line for the terminal once in a while, else ""."""
        now = self._clock()
        self._took.setdefault(kind, []).append(now - self._last)
        self._last = now
        self._left[kind] -= 1
        if now - self._told < EVERY or not (+self._left).total():
            return ""
        self._told = now
        done = self._all - (+self._left).total()
        return f"{done} of {self._all} tests in {_minutes(now - self._start)}, about " + (
            f"{_minutes(self.seconds)} left"
        )

    @property
    def seconds(self) -> float:
        """What is left, as far as that can be known: a kind of which none has run yet takes as long
        as the median of those that have."""
        typical = {kind: statistics.mean(values) for kind, values in self._took.items()}
        other = statistics.median(typical.values()) if typical else 0.0
        return sum(count * typical.get(kind, other) for kind, count in (+self._left).items())


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
