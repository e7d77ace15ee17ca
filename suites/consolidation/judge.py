"""Whether a point of a search is within its limits, beyond them, or says nothing.

Each guest must be within its own limit: a mean over guests would hide the one whose users complain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from suites.consolidation.requests import in_window, latency_at
from suites.consolidation.tile import TileGuest

Outcome = Literal["pass", "fail", "invalid"]

LIMIT_FACTOR = 3.0  # times the latency of a tile alone
MAX_ERRORS = 0.001  # of the requests
MIN_ACHIEVED = 0.95  # good answers of scheduled arrivals
# a point says nothing if the generator itself is slow
MAX_DELAY_SHARE = 0.1  # of the tightest limit, at DELAY_PERCENTILE
DELAY_PERCENTILE = 99
MAX_GENERATOR_CPU = 0.6
# requests without which a percentile is not known well enough
MIN_REQUESTS = {99: 1000, 95: 240, 90: 30}


@dataclass(frozen=True)
class GuestResult:
    """One guest in the measured window.

    tile: the number of its tile. scheduled, good: numbers of requests. latency: seconds at its
    percentile; p50 and p99: of the same. limit: seconds, infinite while there is none. problem: why
    it is not within its limit, or "". rate_share: of the tile's full rate.
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
    rate_share: float = 1.0

    @property
    def achieved(self) -> float:
        """The share of the scheduled requests that had a good answer; never above 1."""
        return self.good / self.scheduled if self.scheduled else 0.0


@dataclass(frozen=True)
class Verdict:
    """The outcome of one point, and the reasons of any outcome but "pass"."""

    outcome: Outcome
    reasons: tuple[str, ...] = ()


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
    latencies = requests["latency"]
    good = int(requests["good"].sum())
    latency = latency_at(latencies, guest.percentile)
    result = GuestResult(
        name=guest.name,
        tile=tile,
        scheduled=len(requests),
        good=good,
        percentile=guest.percentile,
        latency=latency,
        p50=latency_at(latencies, 50),
        p99=latency_at(latencies, 99),
        limit=limit,
        problem="",
        rate_share=guest.rate_share,
    )
    return with_problem(result, end, note)


def with_problem(result: GuestResult, end: str = "", note: str = "") -> GuestResult:
    """The same result with its problem. end, note: see judge_guest()."""
    problem = ""
    errors = result.scheduled - result.good
    if end:
        problem = f"ended: {end}"
    elif not result.scheduled:
        problem = "got no request"
    elif errors > MAX_ERRORS * result.scheduled:
        problem = f"{errors} of {result.scheduled} requests without a good answer"
        problem += f" ({note})" if note else ""
    elif result.achieved < MIN_ACHIEVED:
        problem = f"achieved {result.achieved:.1%} of the rate"
    elif not result.latency <= result.limit:
        quantile = "slowest" if result.percentile == 100 else f"p{result.percentile:g}"
        problem = f"{quantile} {result.latency:.3g} s, limit {result.limit:.3g} s"
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
        alone = [one.latency for run in references for one in run if one.name == guest.name]
        limits[guest.name] = guest.limit or max(LIMIT_FACTOR * max(alone), guest.floor)
    return limits


def reference_problem(references: Sequence[Sequence[GuestResult]]) -> str:
    """Why a tile alone cannot be the reference, or ""."""
    for number, run in enumerate(references):
        for one in run:
            if one.problem or not math.isfinite(one.latency):
                return f"{one.name} in reference run {number + 1}: {one.problem or 'no latency'}"
    return ""


def judge_point(
    results: Sequence[GuestResult],
    requests: pd.DataFrame,
    limits: Mapping[str, float],
    generator_cpu: float,
    swapped: int = 0,
) -> Verdict:
    """The verdict on one point.

    requests: of all guests, in the window. generator_cpu: its share of its CPUs, from 0 to 1.
    swapped: pages that the host swapped in the window.
    """
    problems = [f"{one.name} of tile {one.tile}: {one.problem}" for one in results if one.problem]
    doubts = list(_doubts(results, requests, limits, generator_cpu, swapped))
    if doubts:
        return Verdict("invalid", tuple(doubts))
    return Verdict("fail", tuple(problems)) if problems else Verdict("pass")


def _doubts(
    results: Sequence[GuestResult],
    requests: pd.DataFrame,
    limits: Mapping[str, float],
    generator_cpu: float,
    swapped: int,
) -> list[str]:
    doubts = []
    delay = latency_at(requests["delay"].dropna(), DELAY_PERCENTILE)
    tightest = min(limits.values(), default=math.inf)
    if delay > MAX_DELAY_SHARE * tightest:
        doubts.append(
            f"the generator noticed arrivals {delay:.3g} s late (p{DELAY_PERCENTILE}), more than "
            f"{MAX_DELAY_SHARE:.0%} of the limit {tightest:.3g} s"
        )
    if generator_cpu > MAX_GENERATOR_CPU:
        doubts.append(f"the generator used {generator_cpu:.0%} of its CPUs")
    if swapped:
        doubts.append(f"the host swapped {swapped} pages")
    for one in results:
        needed = MIN_REQUESTS.get(int(one.percentile), 0) * one.rate_share
        # a Poisson schedule may have a few fewer than expected
        if one.scheduled < needed - 4 * math.sqrt(needed):
            doubts.append(
                f"{one.name} of tile {one.tile} had {one.scheduled} requests: p{one.percentile:g} "
                f"needs about {needed:.0f}"
            )
    return doubts


def tile_score(results: Sequence[GuestResult]) -> float:
    """The score of a point: of each tile, the geometric mean of its guests' achieved shares, added.

    A tile whose guests all get their answers counts as 1.
    """
    tiles: dict[int, list[float]] = {}
    for one in results:
        tiles.setdefault(one.tile, []).append(one.achieved)
    return float(sum(np.prod(shares) ** (1 / len(shares)) for shares in tiles.values()))


def window_results(
    guests: Sequence[tuple[TileGuest, int]],
    requests: pd.DataFrame,
    window: tuple[float, float],
    limits: Mapping[str, float],
    ends: Mapping[int, str],
    notes: Mapping[int, str] | None = None,
) -> list[GuestResult]:
    """The results of all guests; a guest's index is the target of its requests.

    guests: with the number of their tile. ends: of the guests that ended, by index. notes: what
    the generator said about a guest's requests, by index.
    """
    measured = in_window(requests, *window)
    return [
        judge_guest(
            guest,
            tile,
            measured[measured["target"] == index],
            limits.get(guest.name, math.inf),
            ends.get(index, ""),
            (notes or {}).get(index, ""),
        )
        for index, (guest, tile) in enumerate(guests)
    ]
