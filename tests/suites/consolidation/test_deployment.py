"""The CPUs of guests and of the load generator."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.hosts.base import HostFacts
from suites.consolidation.deployment import split_cpus


def facts(cpus: Sequence[int], cores: Sequence[Sequence[int]] = ()) -> HostFacts:
    return HostFacts("h", "vmx", "CPU", len(cpus), 1 << 34, "6.1", "", "", "", {}, cpus, cores)


THREADS_LAST = [(i, i + 16) for i in range(16)]  # as most firmware numbers them
THREADS_BESIDE = [(i, i + 1) for i in range(0, 32, 2)]


@pytest.mark.parametrize(
    ("cpus", "cores", "generator"),
    [
        (range(2), (), [1]),
        (range(40), (), [36, 37, 38, 39]),
        (range(32), THREADS_LAST, [14, 15, 30, 31]),
        (range(32), THREADS_BESIDE, [28, 29, 30, 31]),
        (range(4), [(0, 2), (1, 3)], [1, 3]),
        ([1, 2], [(0,), (1,), (2,)], [2]),  # the emulated host
        ([0, 1, 2], [(0, 4), (1, 5), (2, 6)], [2]),  # the siblings are not ours
        (range(2), [(0, 1)], [0, 1]),
        ([0], (), [0]),
    ],
)
def test_generator_has_whole_cores(
    cpus: Sequence[int], cores: Sequence[Sequence[int]], generator: list[int]
) -> None:
    own = facts(cpus, cores)
    guests, others = split_cpus(own)
    assert list(others) == generator
    assert sorted([*guests, *others]) == list(cpus)
    assert own.cores(guests) + own.cores(others) == own.cores(cpus)
