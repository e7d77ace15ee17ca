"""Whether a point of a search is within its limits, beyond them, or says nothing.

Each guest must be within its own limit: a mean over guests would hide the one whose users complain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from suites.consolidation.requests import by_target, latencies_at, latency_at
from suites.consolidation.tile import TileGuest

Outcome = Literal["pass", "fail", "invalid"]

LIMIT_FACTOR = 3.0  # times the latency of a tile alone
MAX_ERRORS = 0.001  # of the requests
# a point says nothing if the generator itself is slow
MAX_DELAY_SHARE = 0.1  # of the limit, at its percentile
MAX_GENERATOR_CPU = 0.6
NAMED_REASONS = 2  # in a summary
MAX_SENT_SHARE = 0.5  # of the latency: more until the request is sent is worth a word
MAX_HOST_STEAL = 0.01  # of the host's CPUs, taken by the machine below it
# between the medians of a window's halves, with so many requests in each
MAX_DRIFT, DRIFT_REQUESTS = 0.1, 500
# requests without which a percentile is not known well enough
MIN_REQUESTS = {99.9: 10_000, 99: 1000, 95: 240, 90: 20}


@dataclass(frozen=True)
class GuestResult:
    """One guest in the measured window.

    tile: the number of its tile. scheduled, good: numbers of requests. latency: seconds at its
    percentile; p50 and p99: of the same. sent: seconds until a connection was free, at its
    percentile; NaN if that is not known. limit: seconds, infinite while there is none. problem: why
    it is not within its limit, or "". rate_share: of the tile's full rate. delay: seconds that the
    generator was late to notice arrivals, at the percentile; NaN where it does not say. halves: the
    medians of the window's halves in seconds; NaN where a half has few requests.
    """

    name: str
    tile: int
    scheduled: int
    good: int
    percentile: float
    latency: float
    p50: float
    p99: float
    limit: float
    problem: str
    sent: float = math.nan
    rate_share: float = 1.0
    delay: float = math.nan
    halves: tuple[float, float] = (math.nan, math.nan)

    @property
    def achieved(self) -> float:
        """The share of the scheduled requests that had a good answer; never above 1.

        A part of a tile may have no request of a low rate in the window, and lost none then.
        """
        if not self.scheduled:
            return float(self.rate_share < 1)
        return self.good / self.scheduled


@dataclass(frozen=True)
class Verdict:
    """The outcome of one point, and the reasons of any outcome but "pass"."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The first reasons, and the number of others."""
        others = len(self.reasons) - NAMED_REASONS
        named = self.reasons[:NAMED_REASONS] + ((f"and {others} more",) if others > 0 else ())
        return "; ".join(named)


@dataclass(frozen=True)
class Conditions:
    """What may spoil a point, whatever its guests do.

    generator_cpu: the share of its busiest CPU, from 0 to 1. swapped: pages that the host swapped.
    host_steal: share of the host's CPUs that the machine below it took. unread: guests whose cost
    could not be read.
    """

    generator_cpu: float = 0.0
    swapped: int = 0
    host_steal: float = 0.0
    unread: int = 0


def judge_guest(
    guest: TileGuest,
    tile: int,
    requests: pd.DataFrame,
    limit: float,
    end: str = "",
    note: str = "",
) -> GuestResult:
    """The result of one guest.

    requests: of this guest, in the window. limit: seconds. end: how the guest ended, or "". note:
    what the generator said, or "".
    """
    percentiles = (guest.percentile, 50, 99)
    latency, p50, p99 = latencies_at(requests["latency"], percentiles)
    result = GuestResult(
        name=guest.name,
        tile=tile,
        scheduled=len(requests),
        good=int(requests["good"].sum()),
        percentile=guest.percentile,
        latency=latency,
        p50=p50,
        p99=p99,
        limit=limit,
        problem="",
        sent=latency_at(requests["sent"].dropna(), guest.percentile),
        rate_share=guest.rate_share,
        delay=latency_at(requests["delay"].dropna(), guest.percentile),
        halves=_halves(requests),
    )
    return with_problem(result, end, note)


def _halves(requests: pd.DataFrame) -> tuple[float, float]:
    """See GuestResult."""
    scheduled = requests["scheduled"]
    is_first = scheduled < (scheduled.min() + scheduled.max()) / 2
    first, second = requests.loc[is_first, "latency"], requests.loc[~is_first, "latency"]
    if min(len(first), len(second)) < DRIFT_REQUESTS:
        return math.nan, math.nan
    return latency_at(first, 50), latency_at(second, 50)


def with_problem(result: GuestResult, end: str = "", note: str = "") -> GuestResult:
    """The same result with its problem. end, note: see judge_guest()."""
    problem = ""
    errors = result.scheduled - result.good
    if end:
        problem = f"ended: {end}"
    elif not result.scheduled and result.rate_share == 1:
        problem = "got no request"
    elif errors > MAX_ERRORS * result.scheduled:
        problem = f"{errors} of {result.scheduled} requests without a good answer"
        problem += f" ({note})" if note else ""
    elif result.latency > result.limit:
        quantile = "slowest" if result.percentile == 100 else f"p{result.percentile:g}"
        problem = f"{quantile} {result.latency:.3g} s, limit {result.limit:.3g} s"
        if result.sent > MAX_SENT_SHARE * result.latency:
            problem += f" ({result.sent:.3g} s until a connection was free)"
    return replace(result, problem=problem)


def freeze_limits(
    guests: Sequence[TileGuest], references: Sequence[Sequence[GuestResult]]
) -> dict[str, float]:
    """The limit of each guest in seconds, from the results of a tile alone.

    It is LIMIT_FACTOR times the highest of the reference runs, at least the guest's floor, or the
    tile's fixed limit.
    """
    limits = {}
    for guest in guests:
        slowest = max(latencies_of(guest, references))
        limits[guest.name] = guest.limit or max(LIMIT_FACTOR * slowest, guest.floor)
    return limits


def reference_problem(
    guests: Sequence[TileGuest], references: Sequence[Sequence[GuestResult]], max_spread: float
) -> str:
    """Why a tile alone cannot be the reference, or "".

    max_spread: between the runs' latencies, as a share of their median, where the limit follows
    from them. A limit that is fixed, or its floor, does not depend on them.
    """
    for number, run in enumerate(references):
        for one in run:
            if one.problem or not math.isfinite(one.latency):
                return f"{one.name} in reference run {number + 1}: {one.problem or 'no latency'}"
    for guest in guests:
        alone = latencies_of(guest, references)
        if guest.limit or LIMIT_FACTOR * max(alone) <= guest.floor:
            continue
        spread = (max(alone) - min(alone)) / float(np.median(alone))
        if spread > max_spread:
            values = ", ".join(f"{latency:.3g}" for latency in alone)
            return (
                f"{guest.name}: p{guest.percentile:g} of {values} s in the reference runs differs "
                f"by more than {max_spread:.0%}"
            )
    return ""


def latencies_of(guest: TileGuest, runs: Sequence[Sequence[GuestResult]]) -> list[float]:
    """A guest's latency at its percentile in each run, in seconds."""
    return [one.latency for run in runs for one in run if one.name == guest.name]


def judge_point(
    results: Sequence[GuestResult], limits: Mapping[str, float], conditions: Conditions
) -> Verdict:
    """The verdict on one point. Without limits only the answers and the conditions count."""
    problems = [f"{one.name} of tile {one.tile}: {one.problem}" for one in results if one.problem]
    doubts = [
        *_generator_doubts(results, conditions),
        *_host_doubts(conditions),
        *(_sample_doubts(results) if limits else ()),
    ]
    if not problems:  # an overloaded guest becomes slower and slower
        doubts += _drift_doubts(results)
    if doubts:
        return Verdict("invalid", tuple(doubts))
    return Verdict("fail", tuple(problems)) if problems else Verdict("pass")


def _generator_doubts(results: Sequence[GuestResult], conditions: Conditions) -> Iterator[str]:
    """A guest's latency has the generator's delay in it, at the same percentile at most."""
    for one in results:
        if one.delay > MAX_DELAY_SHARE * one.limit:
            yield (
                f"the generator noticed arrivals for {one.name} of tile {one.tile} "
                f"{one.delay:.3g} s late (p{one.percentile:g}), more than {MAX_DELAY_SHARE:.0%} of "
                f"the limit {one.limit:.3g} s"
            )
    if conditions.generator_cpu > MAX_GENERATOR_CPU:
        yield f"the generator used {conditions.generator_cpu:.0%} of a CPU"


def requests_needed(percentile: float) -> int:
    """How many requests a percentile needs; the slowest of all (100) needs one."""
    if percentile >= 100:
        return 1
    return max((n for known, n in MIN_REQUESTS.items() if known <= percentile), default=1)


def _host_doubts(conditions: Conditions) -> Iterator[str]:
    if conditions.swapped:
        yield f"the host swapped {conditions.swapped} pages"
    if conditions.host_steal > MAX_HOST_STEAL:
        yield f"the machine below the host took {conditions.host_steal:.1%} of its CPUs"
    if conditions.unread:
        yield f"the cost of {conditions.unread} guests could not be read"


def _sample_doubts(results: Sequence[GuestResult]) -> Iterator[str]:
    for one in results:
        # A tile with a part of the load must do with a coarser percentile. Its number of requests
        # is a Poisson count: half of its mean is no surprise, and 1 of 0.25 a window is none.
        part = 0.5 if one.rate_share < 1 else 1.0
        needed = math.floor(requests_needed(one.percentile) * one.rate_share * part)
        if one.scheduled < needed:
            yield (
                f"{one.name} of tile {one.tile} had {one.scheduled} requests: p{one.percentile:g} "
                f"needs {needed}"
            )


def _drift_doubts(results: Sequence[GuestResult]) -> Iterator[str]:
    """Whether the state was not yet steady: the halves' medians differ."""
    for one in results:
        before, after = one.halves
        if abs(after - before) > MAX_DRIFT * before:
            yield (
                f"{one.name} of tile {one.tile} was not steady: its median went from {before:.3g} "
                f"to {after:.3g} s"
            )


def tile_score(results: Sequence[GuestResult]) -> float:
    """The score of a point: of each tile, the geometric mean of its guests' achieved shares, added.

    A tile whose guests all get their answers counts as 1, one with a part of the load as that part.
    """
    tiles: dict[int, list[GuestResult]] = {}
    for one in results:
        tiles.setdefault(one.tile, []).append(one)
    return float(
        sum(
            guests[0].rate_share * np.prod([one.achieved for one in guests]) ** (1 / len(guests))
            for guests in tiles.values()
        )
    )


def window_results(
    guests: Sequence[tuple[TileGuest, int]],
    requests: pd.DataFrame,
    limits: Mapping[str, float],
    ends: Mapping[int, str],
    notes: Mapping[int, str] | None = None,
) -> list[GuestResult]:
    """The results of all guests; a guest's index is the target of its requests.

    guests: with the number of their tile. requests: of the window. ends: of the guests that ended,
    by index. notes: what the generator said about a guest's requests, by index.
    """
    parts = zip(guests, by_target(requests, len(guests)), strict=True)
    return [
        judge_guest(
            guest,
            tile,
            own,
            limits.get(guest.name, math.inf),
            ends.get(index, ""),
            (notes or {}).get(index, ""),
        )
        for index, ((guest, tile), own) in enumerate(parts)
    ]
