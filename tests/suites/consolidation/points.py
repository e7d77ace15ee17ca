"""Synthetic points of a search. No figure here was measured."""

from __future__ import annotations

from suites.consolidation.accounting import WindowCost
from suites.consolidation.experiment import Point
from suites.consolidation.judge import GuestResult, Outcome, Verdict
from suites.consolidation.requests import CURVE

GUESTS = ("web", "cache")
WORK = 0.1  # CPUs of work of a guest under load
BASE = 0.05  # CPUs that the host uses without guests
SECONDS = 30.0


def point(
    tiles: float,
    outcome: Outcome = "pass",
    *,
    latency: float = 0.01,
    guest_cost: float = 0.02,
    demand_cost: float = 1.3,
    achieved: float = 1.0,
) -> Point:
    """A point of `tiles` tiles of GUESTS. latency: p99 in seconds. guest_cost: CPUs of an idle
    guest. demand_cost: CPUs for one CPU of work. achieved: the share of answered requests."""
    guests = round(tiles * len(GUESTS))
    idle, work = BASE + guest_cost * guests, WORK * guests
    results = [
        GuestResult(
            name=GUESTS[index % len(GUESTS)],
            tile=index // len(GUESTS),
            scheduled=6000,
            good=round(6000 * achieved),
            percentile=99.0,
            latency=latency,
            p50=latency / 3,
            p99=latency,
            limit=1.0,
            problem="",
        )
        for index in range(guests)
    ]
    return Point(
        tiles=tiles,
        guests=guests,
        verdict=Verdict(outcome),
        results=results,
        curves={name: [latency * percentile / 99 for percentile in CURVE] for name in GUESTS},
        window=(0.0, SECONDS),
        start=0.0,
        end=SECONDS,
        idle=window_cost(idle, 0.0),
        loaded=window_cost(idle + demand_cost * work, work),
        generator_cpu=0.1,
        deploy_seconds=1.0,
        ends={},
    )


def window_cost(busy: float, demand: float) -> WindowCost:
    """A window on 16 CPUs. busy, demand: in CPUs."""
    return WindowCost(
        seconds=SECONDS,
        cpus=16,
        host_cpus=18,
        busy=busy * SECONDS,
        host_steal=0.0,
        swapped=0,
        disks=(0, 0),
        pressure={},
        joules=None,
        guest_cpu={},
        memory={},
        mapped={},
        traffic={},
        exits={},
        demand=demand * SECONDS,
        steal=0.0,
        generator_cpu=0.0,
        generator_busy=0.0,
        unread=0,
    )
