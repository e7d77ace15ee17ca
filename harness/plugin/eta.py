"""Estimates how long the remaining tests take, from the durations of similar ones."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable

INTERVAL = 60.0  # seconds between two estimates


class TimeEstimate:
    """The remaining time of a session.

    kinds: the kind of each test to come. Tests of one kind, such as the parameters of one function,
    take about the same time. clock: returns seconds.
    """

    def __init__(self, kinds: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._remaining = Counter(kinds)
        self._total = self._remaining.total()
        self._durations: dict[str, list[float]] = {}
        self._clock = clock
        self._start = self._last = self._last_line = clock()

    def finish(self, kind: str) -> str:
        """Count a finished test. Returns a line for the terminal once in INTERVAL, else ""."""
        now = self._clock()
        self._durations.setdefault(kind, []).append(now - self._last)
        self._last = now
        self._remaining[kind] -= 1
        remaining = (+self._remaining).total()
        if now - self._last_line < INTERVAL or not remaining:
            return ""
        self._last_line = now
        return (
            f"{self._total - remaining} of {self._total} tests in {_text(now - self._start)}, "
            + (f"about {_text(self.seconds)} left")
        )

    @property
    def seconds(self) -> float:
        """The estimate of the remaining time. A kind that has not run yet counts with the median of
        the kinds that have."""
        means = {kind: statistics.mean(values) for kind, values in self._durations.items()}
        other = statistics.median(means.values()) if means else 0.0
        remaining = (+self._remaining).items()
        return sum(number * means.get(kind, other) for kind, number in remaining)


def _text(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
