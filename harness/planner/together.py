"""Machines that must share a host: overlapping groups become one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence


def merge(count: int, together: Iterable[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """All machines from 0 to count - 1 in groups, in the order of each group's first machine."""
    parent = list(range(count))

    def root(machine: int) -> int:
        while parent[machine] != machine:
            parent[machine] = parent[parent[machine]]
            machine = parent[machine]
        return machine

    for group in together:
        for one, other in itertools.pairwise(group):
            low, high = sorted((root(one), root(other)))
            parent[high] = low
    members: dict[int, list[int]] = {}
    for machine in range(count):
        members.setdefault(root(machine), []).append(machine)
    return tuple(tuple(found) for found in members.values())
