"""Limits and verdicts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from suites.consolidation.judge import (
    Conditions,
    GuestResult,
    freeze_limits,
    judge_guest,
    judge_point,
    reference_problem,
    requests_needed,
    tile_score,
    window_results,
)
from suites.consolidation.tile import TileGuest


def role(name: str = "web", **changes: Any) -> TileGuest:
    values: dict[str, Any] = {
        "name": name, "server": "web", "memory": 128, "rate": 20.0, "arrivals": "poisson",
        "percentile": 99.0, "floor": 0.025, "limit": 0.0, "work": 0,
    }  # fmt: skip
    return TileGuest(**{**values, **changes})


def log(
    latencies: list[float], target: int = 0, delay: float = 0.0, sent: float = 0.0
) -> pd.DataFrame:
    count = len(latencies)
    return pd.DataFrame(
        {
            "target": target,
            "scheduled": np.arange(count) / 20,
            "delay": delay,
            "sent": sent,
            "latency": latencies,
            "good": np.isfinite(latencies),
        }
    )


def result(
    latencies: list[float], limit: float = 1.0, end: str = "", **changes: Any
) -> GuestResult:
    return judge_guest(role(**changes), 0, log(latencies), limit, end)


def test_percentile_is_the_request_of_that_rank() -> None:
    one = result([i / 1000 for i in range(1, 1001)])
    assert (one.p50, one.p99, one.latency) == (0.5, 0.99, 0.99)
    assert result([0.1, 0.2, 0.3], percentile=100.0).latency == 0.3


@pytest.mark.parametrize(
    ("latencies", "end", "problem"),
    [
        ([0.1] * 1000, "", ""),
        ([0.1] * 980 + [1.5] * 20, "", "p99 1.5 s, limit 1 s"),
        ([0.1] * 991 + [1.5] * 9, "", ""),
        ([0.1] * 999 + [math.inf], "", ""),
        ([0.1] * 998 + [math.inf] * 2, "", "2 of 1000 requests without a good answer"),
        ([], "", "got no request"),
        ([0.1] * 1000, "panic: oops", "ended: panic: oops"),
    ],
)
def test_problem_of_one_guest(latencies: list[float], end: str, problem: str) -> None:
    assert result(latencies, end=end).problem == problem


def test_a_late_guest_that_had_no_free_connection_says_so() -> None:
    for sent, words in ((0.9, ""), (1.2, " (1.2 s until a connection was free)"), (math.nan, "")):
        requests = log([2.0] * 1000, sent=sent)
        one = judge_guest(role(), 0, requests, 1.0)
        assert one.problem == f"p99 2 s, limit 1 s{words}"


def test_a_part_of_a_tile_may_have_no_request_of_a_low_rate() -> None:
    part = judge_guest(role(rate_share=0.25, percentile=100.0), 0, log([]), 1.0)
    assert (part.problem, part.achieved) == ("", 1.0)
    assert judge_point([part], {"web": 1.0}, Conditions()).outcome == "pass"


@pytest.mark.parametrize(("count", "outcome"), [(125, "pass"), (124, "invalid")])
def test_a_part_of_a_tile_needs_half_of_its_part_of_the_requests(count: int, outcome: str) -> None:
    part = judge_guest(role(rate_share=0.25), 0, log([0.1] * count), 1.0)
    assert judge_point([part], {"web": 1.0}, Conditions()).outcome == outcome


@pytest.mark.parametrize(
    ("percentile", "needed"), [(50, 1), (90, 20), (95, 240), (98, 240), (99, 1000), (100, 1)]
)
def test_a_percentile_needs_requests_beyond_it(percentile: float, needed: int) -> None:
    assert requests_needed(percentile) == needed


def test_limits_are_three_times_the_slowest_reference_with_a_floor() -> None:
    guests = [role("web"), role("fast"), role("batch", limit=10.0, floor=0.0)]
    runs = [
        [judge_guest(one, 0, log([seconds * scale] * 1000), math.inf)
         for one, seconds in zip(guests, (0.02, 0.001, 3.0), strict=True)]
        for scale in (1.0, 1.5, 1.2)
    ]  # fmt: skip
    limits = freeze_limits(guests, runs)
    assert limits["web"] == pytest.approx(0.09)
    assert limits["fast"] == 0.025
    assert limits["batch"] == 10.0


def test_a_tile_alone_with_errors_is_no_reference() -> None:
    fine, broken = [result([0.1] * 1000)], [result([0.1] * 900 + [math.inf] * 100)]
    assert reference_problem([role()], [fine, fine], 0.1) == ""
    problem = reference_problem([role()], [fine, broken], 0.1)
    assert problem.startswith("web in reference run 2: 100 of 1000")


def test_reference_runs_that_differ_are_no_reference_if_the_limit_follows_from_them() -> None:
    runs = [[result([seconds] * 1000)] for seconds in (0.1, 0.12, 0.1)]
    problem = reference_problem([role()], runs, 0.1)
    assert problem == "web: p99 of 0.1, 0.12, 0.1 s in the reference runs differs by more than 10%"
    assert reference_problem([role()], runs, 0.3) == ""
    assert reference_problem([role(floor=0.5)], runs, 0.1) == ""
    assert reference_problem([role(limit=0.5)], runs, 0.1) == ""


def test_one_guest_beyond_its_limit_fails_the_point_although_the_mean_is_fine() -> None:
    results = [result([0.01] * 1000)] * 9 + [result([2.0] * 1000)]
    verdict = judge_point(results, {"web": 1.0}, Conditions())
    assert verdict.outcome == "fail"
    assert verdict.reasons == ("web of tile 0: p99 2 s, limit 1 s",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"generator_cpu": 0.61}, "the generator used 61% of a CPU"),
        ({"swapped": 3}, "the host swapped 3 pages"),
        ({"host_steal": 0.02}, "the machine below the host took 2.0% of its CPUs"),
        ({"unread": 2}, "the cost of 2 guests could not be read"),
        ({"delay": 0.2}, "the generator noticed arrivals for web of tile 0 0.2 s late (p99)"),
        ({"count": 500}, "web of tile 0 had 500 requests: p99 needs 1000"),
    ],
)
def test_doubtful_point_is_invalid_even_if_a_guest_failed(
    changes: dict[str, Any], reason: str
) -> None:
    latencies = [2.0] * changes.pop("count", 1000)
    requests = log(latencies, delay=changes.pop("delay", 0.0))
    one = judge_guest(role(), 0, requests, 1.0)
    verdict = judge_point([one], {"web": 1.0}, Conditions(**changes))
    assert verdict.outcome == "invalid"
    assert verdict.reasons[0].startswith(reason)


def test_a_point_that_was_not_steady_says_nothing_unless_it_failed() -> None:
    latencies = [0.1] * 1000 + [0.12] * 1000
    limits = {"web": 1.0}
    steady = judge_point([result([0.1] * 2000)], limits, Conditions())
    assert steady.outcome == "pass"
    verdict = judge_point([result(latencies)], limits, Conditions())
    assert verdict.reasons == ("web of tile 0 was not steady: its median went from 0.1 to 0.12 s",)
    failed = judge_point([result(latencies, limit=0.11)], limits, Conditions())
    assert failed.outcome == "fail"


def test_score_is_the_sum_over_tiles_of_the_geometric_mean() -> None:
    full, half = result([0.1] * 4), result([0.1, 0.1, math.inf, math.inf])
    second = GuestResult(**{**vars(full), "tile": 1})
    assert tile_score([full, half]) == pytest.approx(math.sqrt(0.5))
    assert tile_score([full, half, second]) == pytest.approx(math.sqrt(0.5) + 1)
    quarter = GuestResult(**{**vars(full), "tile": 2, "rate_share": 0.25})
    assert tile_score([second, quarter]) == pytest.approx(1.25)


def test_results_take_each_guests_requests() -> None:
    requests = pd.concat([log([0.1] * 1000, 0), log([0.2] * 1000, 1)]).sort_values("scheduled")
    guests = [(role("web"), 0), (role("cache"), 0), (role("idle"), 0)]
    first, second, third = window_results(guests, requests, {"web": 1.0}, {1: "killed"})
    assert (first.scheduled, first.p50, first.limit) == (1000, 0.1, 1.0)
    assert (second.p50, second.limit, second.problem) == (0.2, math.inf, "ended: killed")
    assert third.problem == "got no request"
