"""Enumerates fillings of hosts that hold few items each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.planner.packing.instance import Filling, Floats, Instance, Integers
from harness.planner.problem import TOLERANCE


def all_fillings(instance: Instance, most: int) -> list[Filling] | None:
    """Every filling to which nothing can be added; None if there are more than `most` sets."""
    fillings: list[Filling] = []
    starts = [(shape, (), -1) for shape in range(len(instance.costs))]
    opened = [(host.shape, host.items, number) for number, host in enumerate(instance.opened)]
    for shape, items, number in (*starts, *opened):
        found = _maximal(instance, shape, items, most - len(fillings))
        if found is None:
            return None
        fillings += [Filling(shape, (*items, *rest), number) for rest in found if items or rest]
    return fillings


def _maximal(
    instance: Instance, shape: int, start: tuple[int, ...], most: int
) -> list[tuple[int, ...]] | None:
    """Sets of movable items that fit beside `start`, such that no other item fits, too."""
    limit = instance.limits[shape]
    sizes = np.where(instance.pinned[:, None], np.inf, instance.sizes.astype(np.float64))
    level = np.zeros((1, 0), np.int64)
    loads = instance.load(start)[None, :]
    maximal: list[tuple[int, ...]] = []
    seen = 1
    while len(level):
        next_sets, next_loads = [], []
        for chosen, load in zip(level, loads, strict=True):
            fits = (load + sizes <= limit).all(axis=1)
            fits[chosen] = False
            present = (*start, *chosen.tolist())
            for item in _excluded(instance, present):
                fits[item] = False
            if not fits.any():
                maximal.append(tuple(chosen.tolist()))
            last = int(chosen[-1]) if len(chosen) else -1
            larger = np.flatnonzero(fits[last + 1 :]) + last + 1
            seen += len(larger)
            if seen > most:
                return None
            next_sets.append(np.column_stack([np.tile(chosen, (len(larger), 1)), larger]))
            next_loads.append(load + instance.sizes[larger])
        level, loads = np.concatenate(next_sets), np.concatenate(next_loads)
    return maximal


def _weights(instance: Instance, items: tuple[int, ...]) -> dict[int, int]:
    """The weight of the items in each group that they are in."""
    weights: dict[int, int] = {}
    for item in items:
        for number, weight in instance.memberships.get(item, ()):
            weights[number] = weights.get(number, 0) + weight
    return weights


def _allowed(instance: Instance, items: tuple[int, ...]) -> bool:
    weights = _weights(instance, items)
    return all(weight <= instance.groups[number].limit for number, weight in weights.items())


def _excluded(instance: Instance, present: tuple[int, ...]) -> list[int]:
    """Items that a group keeps off a host with these items."""
    return [
        item
        for number, weight in _weights(instance, present).items()
        for item, more in zip(
            instance.groups[number].items, instance.groups[number].weights, strict=True
        )
        if weight + more > instance.groups[number].limit
    ]


def tight_fillings(instance: Instance, hosts: int, most: int) -> list[Filling]:
    """The fillings of up to four items that waste least, for a solution with so many hosts.

    All hosts together waste hosts x capacity - total of each dimension, so one host wastes no more.
    If this allows more than about `most` fillings, only those that waste less are found. For one
    shape without opened hosts.

    Sets of one and two items are sorted by a weighted sum of their dimensions. For each of them the
    sets that fill the rest lie in one range. This costs the square of the number of items.
    """
    waste = np.maximum(hosts * instance.capacities[0] - instance.total, 0.0)
    planned = np.isfinite(waste)
    sizes = instance.sizes[:, planned].astype(np.float64)
    limit, waste = instance.limits[0][planned], waste[planned] + 2 * TOLERANCE
    # irrational weights: different sets seldom have the same sum
    weights = 1 + np.modf(np.sqrt(2) * np.arange(1, len(limit) + 1))[0]
    pairs = np.column_stack(np.triu_indices(instance.items, 1))
    # a size may be negative in published instances: then a pair may exceed the capacity
    most_of_pair = limit - np.minimum(sizes.min(axis=0, initial=0.0), 0.0)
    pairs = pairs[(sizes[pairs[:, 0]] + sizes[pairs[:, 1]] <= most_of_pair).all(axis=1)]
    singles = np.arange(instance.items)[:, None]
    found: list[Filling] = []
    for left, right in ((singles, singles), (pairs, singles), (pairs, pairs)):
        matches = _matches(sizes, (left, right), limit, waste, weights=weights, most=most)
        found += [
            Filling(0, tuple(items))
            for items in matches.tolist()
            if _allowed(instance, tuple(items))
        ]
    found += [Filling(0, (item,)) for item in range(instance.items)]
    return found


def _matches(
    sizes: Floats,
    sides: tuple[Integers, Integers],
    limit: Floats,
    waste: Floats,
    *,
    weights: Floats,
    most: int,
) -> Integers:
    """(matches, items): unions of a set of each side that leave no more than `waste`."""
    left, right = sides
    loads_left = sizes[left].sum(axis=1)
    loads_right = sizes[right].sum(axis=1)
    keys = loads_right @ weights
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    top = limit @ weights - loads_left @ weights
    high = np.searchsorted(keys, top, side="right")
    share = 1.0
    while True:
        low = np.searchsorted(keys, top - share * (waste @ weights), side="left")
        counts = np.maximum(high - low, 0)
        if counts.sum() <= 40 * most or share < 1e-3:
            break
        share /= 2
    if counts.sum() > 40 * most:
        return np.zeros((0, left.shape[1] + right.shape[1]), np.int64)
    which = np.repeat(np.arange(len(left)), counts)
    offset = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
    partner = order[low[which] + offset]
    ordered = left[which, -1] < right[partner, 0]  # each union once
    which, partner = which[ordered], partner[ordered]
    load = loads_left[which] + loads_right[partner]
    good = (load <= limit).all(axis=1) & (load >= limit - waste).all(axis=1)
    result: NDArray[np.int64] = np.column_stack([left[which[good]], right[partner[good]]])
    return result[:most]
