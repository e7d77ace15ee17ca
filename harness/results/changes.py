"""Change points in the nights of many series at once.

Every night is looked at as it was when it was the newest: what is called a change then stays one,
and the next is looked for from there on. A night's question has three parts.

Where: E-divisive's statistic (Matteson and James, arXiv 1306.4933, eq. 5, alpha 1: the distance of
two empirical distributions, from all pairs' distances) is the largest of all splits that leave
LEAST to RECENT nights to the new level, of the nights since the last change. Older splits are no
news; and were they allowed, one that is small or long known would hide all that come after it.

Whether: Mann and Whitney's exact test of the new level and the last REACH nights of the old one, in
place of the papers' permutations (arXiv 2301.03034 took Student's test for the same reason: a
million permutations a night). Below ALPHA, and kept by Benjamini and Hochberg's procedure over all
series of that night. The split was chosen on the same nights and is asked for again every night, so
these are no rates of error; the rates were measured.

How much: the medians differ by EFFECT.

ALPHA, LEAST, RECENT and BEFORE were chosen on real noise of nightly benchmarks (benchmarks/
test_changes.py says on which, and measures what they come to).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from harness.results.differences import EFFECT, FALSE_DISCOVERIES
from harness.results.statistics import Floats

ALPHA = 0.001
LEAST = 4  # nights on the new level
RECENT = 10  # nights on the new level, at most, for it to be news
BEFORE = 8  # nights on the old one, at least
START = 20  # nights before the first is judged
REACH = 120  # nights of the old level that the test looks back on

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Change:
    """series: its row. base, start, found: columns: where the old level began, the first night on
    the new one, and the night that showed it. before, after: the levels' medians. p: of Mann and
    Whitney's test."""

    series: int
    base: int
    start: int
    found: int
    before: float
    after: float
    p: float


def watch(values: Floats, since: Numbers | None = None) -> list[Change]:
    """All changes, in the order in which they were found.

    values: a row a series, a column a night, NaN where a night has no value. since: for each series
    the first night that counts (0 if not given).
    """
    series, nights = values.shape
    state = _Sums.start(values, np.zeros(series, dtype=np.int64) if since is None else since)
    found: list[Change] = []
    for night in range(nights):
        state.add(night)
        news = _judge(values, state, night)
        for change in news:
            state.begin(change.series, change.start, night)
        found += news
    return found


@dataclass
class _Sums:
    """Of the distances of pairs of nights, for each series and each place of a split up to now.

    base: where the present level begins; first: where the series does. known: nights with a value
    before each place. left: pairs from the base up to the place. right: pairs from the place up to
    now.
    """

    values: Floats
    first: Numbers
    base: Numbers
    known: Numbers
    left: Floats
    right: Floats

    @classmethod
    def start(cls, values: Floats, first: Numbers) -> _Sums:
        series, nights = values.shape
        known = np.zeros((series, nights + 1), dtype=np.int64)
        known[:, 1:] = np.cumsum(~np.isnan(values), axis=1)
        empty = np.zeros((2, series, nights + 1))
        return cls(values, first, first.copy(), known, empty[0], empty[1])

    def add(self, night: int) -> None:
        """One night more."""
        apart = np.nan_to_num(np.abs(self.values[:, :night] - self.values[:, night, None]))
        self.right[:, :night] += np.cumsum(apart[:, ::-1], axis=1)[:, ::-1]
        mine = np.arange(night) >= self.base[:, None]
        self.left[:, night + 1] = self.left[:, night] + (apart * mine).sum(axis=1)

    def begin(self, series: int, base: int, night: int) -> None:
        """From now on a series' level begins at `base`."""
        self.base[series] = base
        self.left[series] = 0.0
        row = self.values[series]
        for place in range(base, night + 1):
            apart = np.nan_to_num(np.abs(row[base:place] - row[place]))
            self.left[series, place + 1] = self.left[series, place] + apart.sum()

    def splits(self, night: int) -> tuple[Numbers, Numbers, Numbers]:
        """For each series the best split of its present level (-1: there is none), and how many
        nights lie before and after it."""
        place = np.arange(night + 1)
        start = np.take_along_axis(self.known, self.base[:, None], axis=1)
        before = self.known[:, : night + 1] - start
        after = self.known[:, night + 1, None] - self.known[:, : night + 1]
        allowed = (before >= BEFORE) & (after >= LEAST) & (after <= RECENT)
        allowed &= place >= self.base[:, None]
        allowed &= (before + after >= START) | (self.base > self.first)[:, None]
        q = divergence(
            self.left[:, : night + 1],
            self.right[:, : night + 1],
            self.left[:, night + 1, None],
            before,
            after,
        )
        best = np.where(allowed, q, -np.inf).argmax(axis=1)
        there = np.take_along_axis(allowed, best[:, None], axis=1)[:, 0]
        rows = np.arange(len(best))
        return np.where(there, best, -1), before[rows, best], after[rows, best]


def divergence(
    left: Floats, right: Floats, whole: Floats, before: Numbers, after: Numbers
) -> Floats:
    """E-divisive's scaled statistic of splits (arXiv 1306.4933, eq. 5 and 6).

    left, right, whole: sums of the distances of all pairs before the split, after it, and of all.
    before, after: how many values lie there.
    """
    m, n = before.astype(float), after.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = 2 * (whole - left - right) / (m * n)
        within = 2 * left / (m * (m - 1)) + 2 * right / (n * (n - 1))
        return np.asarray(m * n / (m + n) * (between - within))


def _judge(values: Floats, state: _Sums, night: int) -> list[Change]:
    """What this night shows, of all series together."""
    place, before, after = state.splits(night)
    news = np.flatnonzero((place >= 0) & ~np.isnan(values[:, night]))
    if not len(news):
        return []
    since = _reach(state.known[news], state.base[news], place[news])
    above = _above(values[news, : night + 1], since, place[news])
    p = rank_test(above, np.minimum(before[news], REACH), after[news])
    kept = (scipy.stats.false_discovery_control(p) <= FALSE_DISCOVERIES) & (p < ALPHA)
    found = []
    for one, its in zip(news[kept].tolist(), p[kept].tolist(), strict=True):
        row, base, at = values[one], int(state.base[one]), int(place[one])
        old = float(np.nanmedian(row[base:at]))
        new = float(np.nanmedian(row[at : night + 1]))
        if old > 0 and abs(new / old - 1) >= EFFECT:
            found.append(Change(one, base, at, night, old, new, its))
    return found


def _reach(known: Numbers, base: Numbers, place: Numbers) -> Numbers:
    """From where on the old level has no more than REACH nights, but not before it begins."""
    beyond = np.take_along_axis(known, place[:, None], axis=1) - known > REACH
    return np.asarray(np.maximum(base, beyond.sum(axis=1)))


def _above(values: Floats, base: Numbers, place: Numbers) -> Floats:
    """For each series: of all pairs of a value before the split and one after it, in how many the
    later is the greater (a tie is half of one): Mann and Whitney's U."""
    nights = np.arange(values.shape[1])
    old = np.where((nights >= base[:, None]) & (nights < place[:, None]), values, np.nan)
    count = np.zeros(len(values))
    for night in range(int(place.min()), values.shape[1]):
        new = np.where(night >= place, values[:, night], np.nan)[:, None]
        count += (new > old).sum(axis=1) + (new == old).sum(axis=1) / 2
    return count


def rank_test(above: Floats, before: Numbers, after: Numbers) -> Floats:
    """The exact two-sided p of Mann and Whitney's U, of many at once. Half pairs, of ties, are
    rounded to the side of no difference."""
    least = np.ceil(np.minimum(above, before * after - above)).astype(int)
    p = np.ones(len(above))
    for m, n in set(zip(before.tolist(), after.tolist(), strict=True)):
        mine = (before == m) & (after == n)
        p[mine] = np.minimum(1.0, 2 * _distribution(m, n)[least[mine]])
    return p


@cache
def _distribution(m: int, n: int) -> Floats:
    """P(U <= u) for u from 0, where no value is like another."""
    count = _arrangements(m, n)
    return np.asarray(np.cumsum(count) / count.sum())


@cache
def _arrangements(m: int, n: int) -> Floats:
    """In how many orders of m old and n new values U is 0, 1, ... m n: Mann and Whitney's
    recurrence, by whether the greatest value is new (it is above all m) or old."""
    count = np.zeros(m * n + 1)
    if m == 0 or n == 0:
        count[0] = 1.0
        return count
    count[m:] += _arrangements(m, n - 1)
    count[: (m - 1) * n + 1] += _arrangements(m - 1, n)
    return count
