"""First fit: the simplest solver, for tests of what is around the solver."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.errors import PlanError
from harness.planner.packing.bounds import lower_bound
from harness.planner.packing.items import make_items
from harness.planner.problem import PackedHost, Packing, Problem


def first_fit(
    problem: Problem, *, seconds: float = 1, seed: int = 1, stop: Callable[[], bool] = lambda: False
) -> Packing:
    """Machines in order of their peaks on the first shape, without constraints and racks.

    Spare hosts are added empty. Pinned machines raise PlanError: this solver knows no names. The
    bound is the solver's own.
    """
    del seconds, seed
    shape = problem.shapes[0]
    usable = shape.usable.astype(np.float64)[:, None]
    sums: list[np.ndarray] = []
    members: list[list[int]] = []
    order = np.argsort(-(problem.demand / usable).max(axis=(1, 2)), kind="stable")
    for machine in order:
        demand = problem.demand[machine].astype(np.float64)
        if (demand > usable).any():
            raise PlanError(
                f"machine {problem.machines[machine]} fits no host", hint="larger hosts"
            )
        for place, total in enumerate(sums):
            if (total + demand <= usable).all():
                sums[place] = total + demand
                members[place].append(int(machine))
                break
        else:
            sums.append(demand)
            members.append([int(machine)])
    members += [[] for _ in range(problem.spare)]
    names = shape.names or tuple(f"{shape.name}-{place + 1}" for place in range(len(members)))
    hosts = tuple(
        PackedHost(names[place], 0, f"rack-{place // shape.per_rack + 1}", tuple(machines))
        for place, machines in enumerate(members)
    )
    status = "interrupted" if stop() else "feasible"
    items = make_items(problem)
    bound = lower_bound(items.instance, items.dimension_name)
    return Packing(hosts, bound.value, bound.reason, status, 0.0)  # type: ignore[arg-type]
