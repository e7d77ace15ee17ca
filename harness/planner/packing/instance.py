"""Vector packing on plain arrays: items of any number of dimensions, hosts of several shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.planner.problem import TOLERANCE

Floats: TypeAlias = NDArray[np.float64]
Sizes: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

UNBOUNDED = 2**31 - 1


@dataclass(frozen=True)
class Group:
    """Items of which a host has no more than `limit`. weights: machines in each item."""

    items: tuple[int, ...]
    weights: tuple[int, ...]
    limit: int = 1


@dataclass(frozen=True)
class Filling:
    """The items on one host. opened: index in Instance.opened, -1 for any host of the shape."""

    shape: int
    items: tuple[int, ...]
    opened: int = -1


@dataclass(frozen=True)
class Solution:
    """Hosts and their items. unplaced: items for which the bounded number of hosts has no room."""

    fillings: tuple[Filling, ...]
    unplaced: tuple[int, ...] = ()


@dataclass(frozen=True)
class Instance:
    """A vector packing problem.

    sizes: (items, dimensions), not negative. capacities: (shapes, dimensions), in the same unit as
    sizes; the largest finite one of each dimension is 1. costs, counts: (shapes,); UNBOUNDED for
    any number. opened: hosts with items that may not move; such a host is in every solution.
    """

    sizes: Sizes
    capacities: Floats
    costs: Floats
    counts: Integers
    groups: tuple[Group, ...] = ()
    opened: tuple[Filling, ...] = ()

    @property
    def items(self) -> int:
        return int(self.sizes.shape[0])

    @cached_property
    def limits(self) -> Floats:
        """Capacities with half of the tolerance. The other half is for rounding of the sizes."""
        return self.capacities * (1 + TOLERANCE / 2)

    @cached_property
    def total(self) -> Floats:
        """(dimensions,): the sum of all sizes."""
        return np.asarray(self.sizes.sum(axis=0, dtype=np.float64))

    @cached_property
    def fits(self) -> Mask:
        """(items, shapes): whether the item alone fits."""
        limits = self.limits.astype(np.float32)
        return np.stack([(self.sizes <= limit).all(axis=1) for limit in limits], axis=1)

    @cached_property
    def pinned(self) -> Mask:
        """(items,): whether the item may not move."""
        mask = np.zeros(self.items, bool)
        for filling in self.opened:
            mask[list(filling.items)] = True
        return mask

    @cached_property
    def memberships(self) -> dict[int, list[tuple[int, int]]]:
        """(group, weight) of each item that is in a group."""
        found: dict[int, list[tuple[int, int]]] = {}
        for number, group in enumerate(self.groups):
            for item, weight in zip(group.items, group.weights, strict=True):
                found.setdefault(item, []).append((number, weight))
        return found

    @cached_property
    def criticality(self) -> Floats:
        """(dimensions,): how near all hosts together come to a capacity; 1 for the scarcest."""
        load = self.total * self.inverse.min(axis=0)
        return np.asarray(load / max(float(load.max(initial=0.0)), np.finfo(float).tiny))

    @cached_property
    def inverse(self) -> Floats:
        """(shapes, dimensions): 1 / capacity, 0.0 for an infinite one, huge for none."""
        return 1 / np.maximum(self.capacities, 1e-12)

    def load(self, items: Sequence[int] | Integers) -> Floats:
        """(dimensions,): the sum of the sizes of items."""
        return np.asarray(self.sizes[np.asarray(items, np.int64)].sum(axis=0, dtype=np.float64))

    def cost(self, solution: Solution) -> float:
        return float(sum(self.costs[filling.shape] for filling in solution.fillings))

    def rank(self, solution: Solution) -> tuple[int, float]:
        """The smaller, the better."""
        return len(solution.unplaced), self.cost(solution)

    def part(
        self, items: Sequence[int] | Integers, opened: Sequence[int], counts: Integers
    ) -> Instance:
        """The problem of some items and opened hosts, with item k of it being items[k].

        items: with those of the opened hosts. counts: hosts of each shape, with the opened ones.
        """
        chosen = np.asarray(items, np.int64)
        position = {int(item): place for place, item in enumerate(chosen)}
        members: dict[int, list[tuple[int, int]]] = {}
        for item, place in position.items():
            for group, weight in self.memberships.get(item, ()):
                members.setdefault(group, []).append((place, weight))
        groups = tuple(
            Group(tuple(m[0] for m in found), tuple(m[1] for m in found), self.groups[group].limit)
            for group, found in members.items()
            if sum(weight for _, weight in found) > self.groups[group].limit
        )
        hosts = tuple(
            replace(self.opened[k], items=tuple(position[item] for item in self.opened[k].items))
            for k in opened
        )
        return Instance(self.sizes[chosen], self.capacities, self.costs, counts, groups, hosts)


def whole(fillings: Sequence[Filling], items: Integers, opened: Sequence[int]) -> list[Filling]:
    """Fillings of an Instance.part, in terms of the whole instance."""
    return [
        Filling(
            filling.shape,
            tuple(items[list(filling.items)].tolist()),
            opened[filling.opened] if filling.opened >= 0 else -1,
        )
        for filling in fillings
    ]
