"""Lower bounds: no packing has fewer hosts, or costs less where the shapes differ in their cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.planner.packing.composition import composition
from harness.planner.packing.instance import Floats, Instance
from harness.planner.problem import TOLERANCE


@dataclass(frozen=True)
class Bound:
    """value: hosts if all shapes cost the same, else cost. hosts: the least number of hosts.

    reason: a sentence. A bound of infinity means that the bounded number of hosts is too small.
    """

    value: float
    hosts: int
    reason: str


def lower_bound(instance: Instance, dimension_name: Callable[[int], str]) -> Bound:
    """The highest of the bounds by total demand, by large items, and by groups."""
    hosts, reason = 1 if instance.items else 0, "One machine needs one host."
    if len(instance.opened) > hosts:
        hosts, reason = len(instance.opened), "So many hosts have machines that are pinned to them."
    for group in instance.groups:
        needed = -(-sum(group.weights) // group.limit)
        if needed > hosts:
            hosts = needed
            reason = f"{sum(group.weights)} machines must be apart on {needed} hosts."
    large, dimension = large_items_bound(instance)
    if large > hosts:
        hosts = large
        reason = (
            f"Machines that need more than half a host of {dimension_name(dimension)} "
            f"need {large} hosts."
        )
    shapes = composition(instance, hosts=hosts)
    if shapes is None:
        return Bound(np.inf, hosts, total_reason(instance, dimension_name))
    number = int(shapes.sum())
    if number > hosts or not equal_costs(instance):
        reason = total_reason(instance, dimension_name)
    if equal_costs(instance):
        return Bound(float(number), number, reason)
    # the cheapest mixture may have many small hosts: its number is no bound
    return Bound(float(instance.costs @ shapes), hosts, reason)


def equal_costs(instance: Instance) -> bool:
    return bool((instance.costs == instance.costs[0]).all())


def total_reason(instance: Instance, dimension_name: Callable[[int], str]) -> str:
    """A sentence about the dimension whose total needs the most hosts."""
    cheapest = (instance.costs[:, None] * instance.inverse).min(axis=0)
    dimension = int(np.argmax(instance.total * cheapest))
    needed = float(instance.total[dimension] * instance.inverse[:, dimension].min())
    return f"The machines together need the {dimension_name(dimension)} of {needed:.2f} hosts."


def large_items_bound(instance: Instance) -> tuple[int, int]:
    """The bound L2 of Martello and Toth, and its dimension. 0 if no item needs over half a host.

    Of each dimension alone, with the largest capacity, for sizes that are not negative. Without
    large items L2 is the bound by the total.
    """
    best = (0, -1)
    capacity = instance.limits.max(axis=0)
    large = instance.sizes.max(axis=0, initial=0.0) > capacity / 2
    for dimension in np.flatnonzero(large & (instance.sizes.min(axis=0, initial=0.0) >= 0)):
        sizes = np.sort(instance.sizes[:, dimension].astype(np.float64))
        number = _martello_toth(sizes, float(capacity[dimension]))
        best = max(best, (number, int(dimension)), key=lambda found: found[0])
    return best


def _martello_toth(sizes: Floats, capacity: float) -> int:
    """sizes: ascending. The highest bound over all thresholds up to half the capacity."""
    sums = np.concatenate([[0.0], np.cumsum(sizes)])
    half = np.searchsorted(sizes, capacity / 2, side="right")  # the first large item
    thresholds = np.unique(np.concatenate([[0.0], sizes[:half]]))
    smallest = np.searchsorted(sizes, thresholds, side="left")  # the first item that counts
    alone = np.searchsorted(sizes, capacity - thresholds, side="right")  # fits with no counted item
    alone = np.maximum(alone, half)
    shared = alone - half  # large items that leave room for counted small ones
    room = shared * capacity - (sums[alone] - sums[half])
    rest = (sums[half] - sums[smallest] - room) / capacity
    more = np.maximum(0, np.ceil(rest * (1 - TOLERANCE) - TOLERANCE))
    return int((len(sizes) - half + more).max())
