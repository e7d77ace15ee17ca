"""Series of a monitoring system: rates of counters, and sums over devices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]
Values = NDArray[np.float64]

LONGEST_INTERVAL = 15 * 60_000  # ms, over which the mean rate of a counter stands for all of it


def rates(times: Times, values: Values) -> tuple[Times, Values, int]:
    """The rate per second of a counter, at the starts of intervals; and the number of resets.

    NaN where the counter was reset, and where samples are missing for long.
    """
    if len(times) < 2:
        return times[:0], values[:0], 0
    length = np.diff(times)
    growth = np.diff(values)
    reset = growth < 0
    longest = max(LONGEST_INTERVAL, 1.5 * float(np.median(length)))
    known = (length > 0) & (length <= longest) & ~reset
    rate = np.full(len(length), np.nan)
    np.divide(growth * 1000, length, out=rate, where=known)
    return times[:-1], rate, int(reset.sum())


def without_repeated_point(times: Times, values: Values) -> tuple[Times, Values]:
    """A counter of time in use, without a point that is the scrape before, seen twice.

    A range query takes the newest scrape at each step. If a scrape is late, one step has no growth,
    and the next one that of two: more than the CPU can give.
    """
    growth = np.diff(values)
    repeated = np.zeros(len(values), np.bool_)
    repeated[2:-1] = (growth[1:-1] == 0) & (growth[:-2] > 0) & (growth[2:] > 0)
    return times[~repeated], values[~repeated]


class SeriesSums:
    """Adds series up: the devices of a metric, and the metrics of a column.

    A device that is missing at a time counts as nothing. A metric that is missing makes the sum
    unknown.
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[str, str], dict[str, list[tuple[Times, Values]]]] = defaultdict(
            lambda: defaultdict(list)
        )

    def add(self, machine: str, column: str, metric: str, times: Times, values: Values) -> None:
        self._parts[machine, column][metric].append((times, values))

    def take(self) -> Iterator[tuple[str, str, Times, Values]]:
        """Machine, column, times and sums of all that was added. Nothing is left."""
        while self._parts:
            (machine, column), metrics = self._parts.popitem()
            sums = [_sum_devices(parts) for parts in metrics.values()]
            times, where, count = np.unique(
                np.concatenate([one for one, _ in sums]), return_inverse=True, return_counts=True
            )
            total = np.bincount(where, np.concatenate([one for _, one in sums]), len(times))
            yield machine, column, times, np.where(count == len(sums), total, np.nan)


def _sum_devices(parts: list[tuple[Times, Values]]) -> tuple[Times, Values]:
    if len(parts) == 1:
        return parts[0]
    times, where = np.unique(np.concatenate([one for one, _ in parts]), return_inverse=True)
    weights = np.concatenate([one for _, one in parts])
    return times, np.bincount(where, weights, len(times)).astype(np.float64)
