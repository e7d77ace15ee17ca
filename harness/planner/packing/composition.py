"""How many hosts of each shape are needed, if machines were divisible.

A small integer program: the fewest or cheapest hosts whose capacities together hold the total of
each dimension. Items that fit on some shapes only need hosts of these shapes.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from harness.planner.packing.instance import (
    UNBOUNDED,
    Filling,
    Floats,
    Instance,
    Integers,
)
from harness.planner.problem import TOLERANCE


def _requirements(instance: Instance) -> tuple[Floats, Floats]:
    """(rows, shapes) and (rows,): capacities and totals, for all items and each restricted set.

    A restricted set: items that fit on the same shapes, or on fewer.
    """
    total = instance.total
    finite = np.minimum(instance.capacities, total)  # an infinite capacity holds the total
    rows, totals = [finite.T], [total]
    for pattern in np.unique(instance.fits, axis=0):
        if pattern.all() or not pattern.any():
            continue
        restricted = ~(instance.fits & ~pattern).any(axis=1)
        load = instance.load(np.flatnonzero(restricted))
        rows.append(np.where(pattern, np.minimum(instance.capacities.T, load[:, None]), 0.0))
        totals.append(load)
        # such an item needs at least one host, however small it is
        rows.append(pattern[None, :].astype(np.float64))
        totals.append(np.ones(1))
    matrix, needed = np.concatenate(rows), np.concatenate(totals)
    useful = needed > 0
    return matrix[useful], needed[useful]


def opened_counts(instance: Instance) -> Integers:
    return np.bincount(
        np.asarray([filling.shape for filling in instance.opened], np.int64),
        minlength=len(instance.costs),
    ).astype(np.int64)


def composition(instance: Instance, *, slack: float = 0.0, hosts: int = 0) -> Integers | None:
    """(shapes,): the cheapest numbers of hosts; None if there are too few hosts.

    slack: share of each capacity that stays free. hosts: the least number of hosts.
    """
    opened = opened_counts(instance)
    shapes = len(instance.costs)
    if shapes == 1:
        needed = instance.total * instance.inverse[0] / (1 - slack)
        count = max(int(np.ceil(needed.max(initial=0.0) * (1 - TOLERANCE))), hosts, opened[0])
        return np.asarray([count], np.int64) if count <= instance.counts[0] else None
    matrix, needed = _requirements(instance)
    matrix = np.vstack([matrix / needed[:, None], np.ones(shapes)])
    least = np.append(np.full(len(needed), (1 - TOLERANCE) / (1 - slack)), hosts)
    result = milp(
        instance.costs,
        constraints=LinearConstraint(matrix, least, np.inf),
        bounds=Bounds(opened, np.where(instance.counts >= UNBOUNDED, np.inf, instance.counts)),
        integrality=np.ones(shapes, np.int64),
        options={"mip_rel_gap": 0.0},
    )
    return None if result.x is None else np.rint(result.x).astype(np.int64)


def prices(instance: Instance) -> Floats:
    """(dimensions,): what a unit of each dimension costs, the dual of the composition.

    A host whose items are worth its cost is as full as the best mixture of shapes allows.
    """
    if len(instance.costs) == 1:
        return instance.criticality
    matrix = np.minimum(instance.capacities, instance.total).T
    bounds = [(0, None if count >= UNBOUNDED else count) for count in instance.counts.tolist()]
    result = linprog(instance.costs, A_ub=-matrix, b_ub=-instance.total, bounds=bounds)
    if result.status != 0:  # too few hosts: all are needed
        return instance.criticality
    values: Floats = np.maximum(-result.ineqlin.marginals, 0.0)
    return values if values.any() else instance.criticality


def hosts_of(instance: Instance, counts: Integers) -> list[Filling]:
    """The opened hosts, and empty ones up to the counts."""
    missing = counts - opened_counts(instance)
    empty = [Filling(shape, ()) for shape, number in enumerate(missing) for _ in range(number)]
    return [Filling(host.shape, host.items, k) for k, host in enumerate(instance.opened)] + empty
