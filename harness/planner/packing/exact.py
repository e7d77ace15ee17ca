"""The exact assignment of few machines by integer programming, a proof that no better one exists.

One binary variable says whether a host runs a machine, one whether a host is used. There are
hundreds of slots, of which few matter: only those that a solution violates become constraints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack

from harness.planner.packing.budget import Budget
from harness.planner.packing.composition import hosts_of, opened_counts
from harness.planner.packing.instance import Filling, Floats, Instance, Integers, Solution

FIRST_DIMENSIONS, MORE_DIMENSIONS = 24, 16


@dataclass
class _Model:
    """Variables: (items x hosts) in this order, then one for each host."""

    instance: Instance
    hosts: list[Filling]  # the opened ones first
    order: Integers  # items, the largest first

    @property
    def size(self) -> int:
        return (self.instance.items + 1) * len(self.hosts)

    def capacity_rows(self, dimensions: Integers) -> csr_array:
        """sum(size x assigned) - capacity x used <= 0, of each host and dimension."""
        items, hosts = self.instance.items, len(self.hosts)
        blocks = []
        for host, filling in enumerate(self.hosts):
            limit = np.minimum(self.instance.capacities[filling.shape], self.instance.total + 1)
            rows = np.zeros((len(dimensions), self.size))
            rows[:, host : items * hosts : hosts] = self.instance.sizes[:, dimensions].T
            rows[:, items * hosts + host] = -limit[dimensions]
            blocks.append(csr_array(rows))
        return csr_array(vstack(blocks))

    def group_rows(self) -> tuple[csr_array, Floats] | None:
        hosts, rows, limits = len(self.hosts), [], []
        for group in self.instance.groups:
            for host in range(hosts):
                row = np.zeros(self.size)
                row[np.asarray(group.items) * hosts + host] = group.weights
                rows.append(row)
                limits.append(float(group.limit))
        return (csr_array(np.asarray(rows)), np.asarray(limits)) if rows else None

    def bounds(self) -> Bounds:
        """Pinned items are fixed. Item k, the largest first, is on one of the first k + 1 hosts."""
        items, hosts = self.instance.items, len(self.hosts)
        low, high = np.zeros(self.size), np.ones(self.size)
        assigned_low, assigned = (
            low[:-hosts].reshape(items, hosts),
            high[:-hosts].reshape(items, hosts),
        )
        for host, filling in enumerate(self.hosts):
            for item in filling.items:
                assigned[item], assigned[item, host], assigned_low[item, host] = 0.0, 1.0, 1.0
            if filling.opened >= 0:
                low[items * hosts + host] = 1.0
        if len(self.instance.costs) == 1 and not self.instance.opened:
            for rank, item in enumerate(self.order[:hosts].tolist()):
                assigned[item, rank + 1 :] = 0.0
        return Bounds(low, high)


def assign(
    instance: Instance, best: Solution, lowest_cost: float, budget: Budget
) -> tuple[Solution | None, bool]:
    """A solution that is better than the best one known, and whether the better one is optimal.

    None and True: the best one is optimal. It has to place all items.
    """
    cost = instance.cost(best)
    if best.unplaced:
        return None, False
    model = _Model(instance, _hosts(instance, best), np.argsort(-instance.sizes.sum(axis=1)))
    items, hosts = instance.items, len(model.hosts)
    costs = np.concatenate(
        [np.zeros(items * hosts), instance.costs[[host.shape for host in model.hosts]]]
    )
    constraints = [
        LinearConstraint(_each_item_once(items, hosts), 1.0, 1.0),
        # better than the best; HiGHS keeps a constraint to about 1e-7
        LinearConstraint(costs, lowest_cost * (1 - 1e-6), cost - _least_difference(instance)),
    ]
    if (groups := model.group_rows()) is not None:
        constraints.append(LinearConstraint(groups[0], -np.inf, groups[1]))
    if (ordered := _used_in_order(model)) is not None:
        constraints.append(LinearConstraint(ordered, 0.0, np.inf))
    active = np.argsort(-instance.criticality, kind="stable")[:FIRST_DIMENSIONS].astype(np.int64)
    new = active
    while not budget.spent():
        constraints.append(LinearConstraint(model.capacity_rows(new), -np.inf, 0.0))
        result = milp(
            costs,
            constraints=constraints,
            bounds=model.bounds(),
            integrality=np.ones(model.size, np.int64),
            options={"time_limit": budget.left, "mip_rel_gap": 0.0},
        )
        if result.x is None:
            budget.spent()
            return None, result.status == 2  # infeasible: nothing is better
        solution, excess = _solution(model, result.x)
        new = np.setdiff1d(
            np.argsort(-excess)[:MORE_DIMENSIONS][np.sort(-excess)[:MORE_DIMENSIONS] < 0], active
        )
        if not len(new):
            return (solution, result.status == 0) if not excess.any() else (None, False)
        active = np.concatenate([active, new])
    return None, False


def _hosts(instance: Instance, best: Solution) -> list[Filling]:
    """Opened hosts, and of each shape as many as a better solution can have."""
    budget = instance.cost(best) - float(
        sum(instance.costs[host.shape] for host in instance.opened)
    )
    hosts = hosts_of(instance, opened_counts(instance))
    for shape, cost in enumerate(instance.costs.tolist()):
        free = int(instance.counts[shape]) - sum(host.shape == shape for host in instance.opened)
        affordable = int(budget / cost + 1e-9) if cost > 0 else instance.items
        hosts += [Filling(shape, ())] * min(free, affordable, instance.items)
    return hosts


def _least_difference(instance: Instance) -> float:
    """By how much a better solution is cheaper at least."""
    if (instance.costs == instance.costs[0]).all():
        return 0.5 * float(instance.costs[0])
    return 1e-6 * float(instance.costs.max())


def _each_item_once(items: int, hosts: int) -> csr_array:
    rows = np.repeat(np.arange(items), hosts)
    columns = np.arange(items * hosts)
    return csr_array((np.ones(items * hosts), (rows, columns)), shape=(items, (items + 1) * hosts))


def _used_in_order(model: _Model) -> csr_array | None:
    """Of two empty hosts of a shape, the first one is used first."""
    rows = []
    first = model.instance.items * len(model.hosts)
    for host, (one, other) in enumerate(zip(model.hosts, model.hosts[1:], strict=False)):
        if one.opened < 0 and other.opened < 0 and one.shape == other.shape:
            row = np.zeros(model.size)
            row[first + host], row[first + host + 1] = 1.0, -1.0
            rows.append(row)
    return csr_array(np.asarray(rows)) if rows else None


def _solution(model: _Model, values: Floats) -> tuple[Solution, Floats]:
    """The packing, and by how much any host exceeds its capacity in each dimension."""
    instance, hosts = model.instance, len(model.hosts)
    assigned = values[:-hosts].reshape(instance.items, hosts) > 0.5
    excess = np.zeros(instance.sizes.shape[1])
    fillings = []
    for host, filling in enumerate(model.hosts):
        items = np.flatnonzero(assigned[:, host])
        if len(items) or filling.opened >= 0:
            over = instance.load(items) - instance.limits[filling.shape]
            excess = np.maximum(excess, np.maximum(over - 1e-9, 0.0))
            fillings.append(Filling(filling.shape, tuple(items.tolist()), filling.opened))
    return Solution(tuple(fillings)), excess
