"""Change points in the nightly values of many series.

The detection is online: each night is judged with the values up to that night, and a detected
change is final. The search for the next change starts at the last one. A night has three steps:

1. Location. E-divisive's statistic (Matteson and James, arXiv 1306.4933, eq. 5, alpha 1) is
   maximal over all splits with MIN_AFTER to MAX_AFTER nights on the new level. Older splits are
   excluded: one that is small or known would hide all later changes.
2. Significance. Mann and Whitney's exact test compares the new level with the last MAX_BEFORE
   nights of the old one. The p value must be below ALPHA and pass Benjamini and Hochberg's
   procedure over all series of that night. The exact test replaces the permutations of the paper,
   which would take a million a night (arXiv 2301.03034 uses Student's test for the same reason).
3. Size. The medians differ by MIN_EFFECT.

The split is chosen on the nights that it is tested on, and every night is tested. So ALPHA is no
error rate; the error rates were measured. ALPHA, MIN_AFTER, MAX_AFTER and MIN_BEFORE were chosen
on real noise of nightly benchmarks (benchmarks/test_changes.py names the data and measures them).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from harness.results.differences import FALSE_DISCOVERY_RATE, MIN_EFFECT
from harness.results.statistics import Floats

ALPHA = 0.001
MIN_AFTER = 4  # nights on the new level
MAX_AFTER = 10  # nights on the new level
MIN_BEFORE = 8  # nights on the old level
MIN_NIGHTS = 20  # nights of a series before it is judged
MAX_BEFORE = 120  # nights of the old level that the rank test uses

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ChangePoint:
    """A change of one series.

    series: row of the series. base, start, detected: columns: first night of the old level, first
    night of the new level, night of the detection. before, after: medians of the two levels.
    p: p value of Mann and Whitney's test.
    """

    series: int
    base: int
    start: int
    detected: int
    before: float
    after: float
    p: float


def find_change_points(values: Floats, since: Numbers | None = None) -> list[ChangePoint]:
    """All change points, in the order of their detection.

    values: shape (series, nights), NaN where a night has no value. since: first night that counts,
    one number for each series (default: 0).
    """
    series, nights = values.shape
    sums = _DistanceSums.start(values, np.zeros(series, dtype=np.int64) if since is None else since)
    changes: list[ChangePoint] = []
    for night in range(nights):
        sums.add(night)
        detected = _judge_night(values, sums, night)
        for change in detected:
            sums.begin_level(change.series, change.start, night)
        changes += detected
    return changes


@dataclass
class _DistanceSums:
    """Sums of distances between pairs of nights, for each series and each possible split.

    base: start of the present level. first: start of the series. known: number of nights with a
    value before each place. left: sum over the pairs from the base to the place. right: sum over
    the pairs from the place to the present night.
    """

    values: Floats
    first: Numbers
    base: Numbers
    known: Numbers
    left: Floats
    right: Floats

    @classmethod
    def start(cls, values: Floats, first: Numbers) -> _DistanceSums:
        series, nights = values.shape
        known = np.zeros((series, nights + 1), dtype=np.int64)
        known[:, 1:] = np.cumsum(~np.isnan(values), axis=1)
        zeros = np.zeros((2, series, nights + 1))
        return cls(values, first, first.copy(), known, zeros[0], zeros[1])

    def add(self, night: int) -> None:
        """Add the distances of one night to all earlier ones."""
        distances = np.nan_to_num(np.abs(self.values[:, :night] - self.values[:, night, None]))
        self.right[:, :night] += np.cumsum(distances[:, ::-1], axis=1)[:, ::-1]
        in_level = np.arange(night) >= self.base[:, None]
        self.left[:, night + 1] = self.left[:, night] + (distances * in_level).sum(axis=1)

    def begin_level(self, series: int, base: int, night: int) -> None:
        """Start a new level of a series at `base`."""
        self.base[series] = base
        self.left[series] = 0.0
        row = self.values[series]
        for place in range(base, night + 1):
            distances = np.nan_to_num(np.abs(row[base:place] - row[place]))
            self.left[series, place + 1] = self.left[series, place] + distances.sum()

    def splits(self, night: int) -> tuple[Numbers, Numbers, Numbers]:
        """The best split of each series' present level (-1: none), and the number of nights before
        and after it."""
        place = np.arange(night + 1)
        start = np.take_along_axis(self.known, self.base[:, None], axis=1)
        before = self.known[:, : night + 1] - start
        after = self.known[:, night + 1, None] - self.known[:, : night + 1]
        allowed = (before >= MIN_BEFORE) & (after >= MIN_AFTER) & (after <= MAX_AFTER)
        allowed &= place >= self.base[:, None]
        allowed &= (before + after >= MIN_NIGHTS) | (self.base > self.first)[:, None]
        q = divergence(
            self.left[:, : night + 1],
            self.right[:, : night + 1],
            self.left[:, night + 1, None],
            before,
            after,
        )
        best = np.where(allowed, q, -np.inf).argmax(axis=1)
        exists = np.take_along_axis(allowed, best[:, None], axis=1)[:, 0]
        rows = np.arange(len(best))
        return np.where(exists, best, -1), before[rows, best], after[rows, best]


def divergence(
    left: Floats, right: Floats, total: Floats, before: Numbers, after: Numbers
) -> Floats:
    """E-divisive's scaled statistic of splits (arXiv 1306.4933, eq. 5 and 6).

    left, right, total: sums of the distances of all pairs before the split, after it, and of all.
    before, after: number of values before and after the split.
    """
    m, n = before.astype(float), after.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = 2 * (total - left - right) / (m * n)
        within = 2 * left / (m * (m - 1)) + 2 * right / (n * (n - 1))
        return np.asarray(m * n / (m + n) * (between - within))


def _judge_night(values: Floats, sums: _DistanceSums, night: int) -> list[ChangePoint]:
    """The changes that this night detects, over all series."""
    place, before, after = sums.splits(night)
    candidates = np.flatnonzero((place >= 0) & ~np.isnan(values[:, night]))
    if not len(candidates):
        return []
    since = _window_start(sums.known[candidates], sums.base[candidates], place[candidates])
    u = _u_statistic(values[candidates, : night + 1], since, place[candidates])
    p = rank_test(u, np.minimum(before[candidates], MAX_BEFORE), after[candidates])
    significant = (scipy.stats.false_discovery_control(p) <= FALSE_DISCOVERY_RATE) & (p < ALPHA)
    changes = []
    pairs = zip(candidates[significant].tolist(), p[significant].tolist(), strict=True)
    for series, p_value in pairs:
        row, base, start = values[series], int(sums.base[series]), int(place[series])
        old = float(np.nanmedian(row[base:start]))
        new = float(np.nanmedian(row[start : night + 1]))
        if old > 0 and abs(new / old - 1) >= MIN_EFFECT:
            changes.append(ChangePoint(series, base, start, night, old, new, p_value))
    return changes


def _window_start(known: Numbers, base: Numbers, place: Numbers) -> Numbers:
    """The first night of the last MAX_BEFORE nights with a value on the old level."""
    too_old = np.take_along_axis(known, place[:, None], axis=1) - known > MAX_BEFORE
    return np.asarray(np.maximum(base, too_old.sum(axis=1)))


def _u_statistic(values: Floats, base: Numbers, place: Numbers) -> Floats:
    """Mann and Whitney's U of each series: the number of pairs of an old and a new value in which
    the new one is greater. A tie counts one half."""
    nights = np.arange(values.shape[1])
    old = np.where((nights >= base[:, None]) & (nights < place[:, None]), values, np.nan)
    count = np.zeros(len(values))
    for night in range(int(place.min()), values.shape[1]):
        new = np.where(night >= place, values[:, night], np.nan)[:, None]
        count += (new > old).sum(axis=1) + (new == old).sum(axis=1) / 2
    return count


def rank_test(u: Floats, before: Numbers, after: Numbers) -> Floats:
    """Exact two-sided p values of Mann and Whitney's U.

    u: one statistic for each series. before, after: sample sizes. A half pair, from ties, is
    rounded towards no difference.
    """
    smaller = np.ceil(np.minimum(u, before * after - u)).astype(int)
    p = np.ones(len(u))
    for m, n in set(zip(before.tolist(), after.tolist(), strict=True)):
        same_size = (before == m) & (after == n)
        p[same_size] = np.minimum(1.0, 2 * _u_distribution(m, n)[smaller[same_size]])
    return p


@cache
def _u_distribution(m: int, n: int) -> Floats:
    """P(U <= u) for u = 0, 1, ..., m n without ties."""
    count = _u_counts(m, n)
    return np.asarray(np.cumsum(count) / count.sum())


@cache
def _u_counts(m: int, n: int) -> Floats:
    """The number of orders of m old and n new values for each U from 0 to m n.

    Mann and Whitney's recurrence: the greatest value is either new, and above all m, or old.
    """
    count = np.zeros(m * n + 1)
    if m == 0 or n == 0:
        count[0] = 1.0
        return count
    count[m:] += _u_counts(m, n - 1)
    count[: (m - 1) * n + 1] += _u_counts(m - 1, n)
    return count
