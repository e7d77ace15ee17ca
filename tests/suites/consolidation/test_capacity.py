"""What the load generator refuses before it is tried."""

from __future__ import annotations

import re

import pytest

from suites.consolidation.capacity import Capacity, MeasuredCost, generator_memory
from suites.consolidation.target import Schedule, Target

FULL = Schedule(ramp=30, measure=300, drain=30)
LARGE = Capacity(cpus=4, memory=8192, reader_memory=65536)


def tiles(count: int) -> list[Target]:
    """Of the standard tile on hardware."""
    rates = {"http": 200.0, "resp": 2000.0, "pgbench": 20.0, "job": 0.1, "echo": 1.0}
    return [Target(name, "192.0.2.1", 80, rate) for name, rate in rates.items()] * count


def test_fifty_tiles_fit() -> None:
    assert LARGE.blocker(tiles(50), FULL) == ""
    assert 1000 < generator_memory(tiles(50), FULL) < 3000


@pytest.mark.parametrize(
    ("capacity", "targets", "reason"),
    [
        (LARGE, [Target("echo", "192.0.2.1", 7, 1)] * 16385, "16385 servers are more than"),
        (LARGE, tiles(200), r"1.39e\+08 requests are more than hv-load's 1e\+08"),
        (Capacity(4, 512, 65536), tiles(50), "need [0-9]+ MiB of its 512 MiB"),
        (Capacity(4, 8192, 2048), tiles(50), "and 2048 MiB are available there"),
    ],
)
def test_reason_names_what_is_missing(
    capacity: Capacity, targets: list[Target], reason: str
) -> None:
    assert re.search(reason, capacity.blocker(targets, FULL))


def test_cpu_time_of_a_smaller_load_is_extrapolated() -> None:
    """2,221 requests/s a tile at 25 us each: a CPU carries 10 tiles at 60 %."""
    capacity = Capacity(1, 8192, 65536, MeasuredCost(8 * 2221, 25e-6))
    assert capacity.blocker(tiles(10), FULL) == ""
    assert "need about 61% of its 1 CPUs, and 60% are the limit" in capacity.blocker(
        tiles(11), FULL
    )
    far = Capacity(1, 8192, 65536, MeasuredCost(2221, 25e-6))
    assert far.blocker(tiles(11), FULL) == "", "a small load says nothing about one so large"
