"""Items: machines that move together, as a vector packing problem on plain arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.planner.packing.instance import (
    UNBOUNDED,
    Filling,
    Floats,
    Group,
    Instance,
    Integers,
    Sizes,
)
from harness.planner.problem import Problem
from harness.planner.together import merge
from harness.planner.trace import METRICS


@dataclass(frozen=True)
class Items:
    """machines: indices of each item. dimensions: metric and slot of each; slot -1 for all slots.

    hosts: of each opened host of the instance, its number among the hosts of its shape. failover:
    (shapes, dimensions), capacities after a failure, scaled as those of the instance. alone: see
    make_items().
    """

    problem: Problem
    instance: Instance
    machines: tuple[tuple[int, ...], ...]
    dimensions: tuple[tuple[int, int], ...]
    hosts: tuple[int, ...]
    failover: Floats
    alone: bool = False

    def dimension_name(self, dimension: int) -> str:
        metric, slot = self.dimensions[dimension]
        return METRICS[metric] if slot < 0 else f"{METRICS[metric]} in slot {slot}"

    def merged(self, groups: Iterable[Sequence[int]]) -> Items:
        """The problem with each group of items as one item."""
        groups = [group for group in groups if len(group) > 1]
        if not groups:
            return self
        together = tuple(
            tuple(machine for item in group for machine in self.machines[item]) for group in groups
        )
        constraints = self.problem.constraints
        problem = replace(
            self.problem,
            constraints=replace(constraints, together=(*constraints.together, *together)),
        )
        return replace(make_items(problem, alone=self.alone), problem=self.problem)


def make_items(problem: Problem, *, alone: bool = False) -> Items:
    """Merge what must be together. The problem must be free of contradictions.

    alone: no two machines of a group that is spread over racks share a host, unless they must.
    """
    machines = merge(len(problem.machines), problem.constraints.together)
    dimensions, scales = _dimensions(problem)
    capacities, failover = (
        np.maximum(np.stack(limits) / scales, 0.0)[:, [metric for metric, _ in dimensions]]
        for limits in (
            [np.asarray(shape.usable, np.float64) for shape in problem.shapes],
            [np.asarray(shape.failover, np.float64) for shape in problem.shapes],
        )
    )
    sizes = _sizes(problem, machines, dimensions, scales)
    item_of = np.empty(len(problem.machines), np.int64)
    for item, members in enumerate(machines):
        item_of[list(members)] = item
    opened, numbers = _opened(problem, item_of)
    instance = Instance(
        sizes,
        capacities,
        np.asarray([shape.cost for shape in problem.shapes], np.float64),
        np.asarray(
            [UNBOUNDED if shape.count is None else shape.count for shape in problem.shapes],
            np.int64,
        ),
        tuple(_groups(problem, item_of, alone=alone)),
        opened,
    )
    return Items(problem, instance, machines, dimensions, numbers, failover, alone)


def _dimensions(problem: Problem) -> tuple[tuple[tuple[int, int], ...], Floats]:
    """The dimensions that matter, and the scale of each metric.

    A metric that no host can run short of has no influence: it has no limit, or one host has enough
    for all machines. One that never changes, as the memory that machines keep, is one dimension.
    The largest capacity of each metric becomes 1.
    """
    usable = np.stack([np.asarray(shape.usable, np.float64) for shape in problem.shapes])
    finite = np.where(np.isfinite(usable), usable, 0.0).max(axis=0)
    scales = np.where(finite > 0, finite, 1.0)
    dimensions: list[tuple[int, int]] = []
    for metric in np.flatnonzero(np.isfinite(usable).any(axis=0)).tolist():
        demand = problem.demand[:, metric, :]
        if (demand.sum(axis=0, dtype=np.float64) <= usable[:, metric].min()).all():
            continue
        if (demand == demand[:, :1]).all():
            dimensions.append((metric, -1))
        else:
            dimensions += [(metric, slot) for slot in range(demand.shape[1])]
    return tuple(dimensions) or ((0, -1),), scales  # nothing has a limit: any dimension will do


def _sizes(
    problem: Problem,
    machines: tuple[tuple[int, ...], ...],
    dimensions: tuple[tuple[int, int], ...],
    scales: Floats,
) -> Sizes:
    """(items, dimensions)."""
    first = np.asarray([members[0] for members in machines], np.int64)
    several = [item for item, members in enumerate(machines) if len(members) > 1]
    sizes = np.empty((len(machines), len(dimensions)), np.float32)
    column = 0
    while column < len(dimensions):
        metric, slot = dimensions[column]
        slots = slice(0, 1) if slot < 0 else slice(None)
        demand = problem.demand[:, metric, slots]
        columns = slice(column, column + demand.shape[1])
        sizes[:, columns] = demand[first] / np.float32(scales[metric])
        for item in several:
            total = demand[list(machines[item])].sum(axis=0, dtype=np.float64)
            sizes[item, columns] = total / scales[metric]
        column += demand.shape[1]
    return sizes


def _groups(problem: Problem, item_of: Integers, *, alone: bool) -> Iterable[Group]:
    constraints = problem.constraints
    limited = [(group, 1) for group in (*constraints.apart, *constraints.conflicts)]
    # no more than half may share a rack, so no more than half may share a host
    limited += [(group, 1 if alone else spread_limit(group)) for group in constraints.spread]
    for group, wanted in limited:
        items, weights = np.unique(item_of[sorted(set(group))], return_counts=True)
        limit = max(wanted, int(weights.max(initial=0)))
        if weights.sum() > limit:
            yield Group(tuple(items.tolist()), tuple(weights.tolist()), limit)


def spread_limit(group: Sequence[int]) -> int:
    """How many machines of the group may share a rack."""
    return max(1, len(set(group)) // 2)


def _opened(problem: Problem, item_of: Integers) -> tuple[tuple[Filling, ...], tuple[int, ...]]:
    """The hosts that machines are pinned to, and their numbers among the hosts of their shape."""
    place = {
        name: (shape, number)
        for shape, one in enumerate(problem.shapes)
        for number, name in enumerate(one.names)
    }
    pinned: dict[tuple[int, int], set[int]] = {}
    for machine, name in problem.constraints.pins.items():
        pinned.setdefault(place[name], set()).add(int(item_of[machine]))
    hosts = sorted(pinned)
    fillings = tuple(
        Filling(shape, tuple(sorted(pinned[shape, number])), k)
        for k, (shape, number) in enumerate(hosts)
    )
    return fillings, tuple(number for _, number in hosts)
