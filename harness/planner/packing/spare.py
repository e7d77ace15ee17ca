"""Spare hosts, so that all machines run after any failure: N+k for hosts and for racks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from harness.errors import PlanError
from harness.planner.failures import FailureSet, Survivors, Unit, failure_sets
from harness.planner.packing.bounds import Bound, equal_costs
from harness.planner.packing.budget import Budget
from harness.planner.packing.composition import composition
from harness.planner.packing.items import Items
from harness.planner.packing.racks import host_name, rack_name
from harness.planner.problem import TOLERANCE, PackedHost, Problem


def spare_bound(items: Items, bound: Bound) -> Bound:
    """The bound with spare hosts: what is left after a failure holds all machines.

    Without k hosts, whichever they are, the others hold everything within their failover capacity.
    """
    problem = items.problem
    failing = max(problem.spare, problem.spare_racks)  # a rack has at least one host
    if not failing or problem.constraints.pins:  # pinned machines fail with their host
        return bound
    instance = replace(items.instance, capacities=items.failover)
    counts = composition(instance)
    if counts is None:
        return bound
    cheapest = float(instance.costs.min())
    value = float(instance.costs @ counts) + failing * cheapest
    if equal_costs(instance):
        value = float(counts.sum()) + failing
    if value <= bound.value:
        return bound
    reason = f"After the failure of {failing} hosts, the others must hold all machines."
    return Bound(value, bound.hosts, reason)


def add_spare_hosts(
    problem: Problem, hosts: tuple[PackedHost, ...], budget: Budget
) -> tuple[PackedHost, ...]:
    """Add empty hosts until all machines survive each failure. Raises PlanError.

    An interruption ends it early. The end of the search's time does not: the packing would lack the
    hosts that it promises. A machine that is pinned to a host fails with it, whatever is added.
    """
    if not problem.spare and not problem.spare_racks:
        return hosts
    complete = False
    while not complete:
        survivors = Survivors(problem, hosts)
        complete = True
        for failure in failure_sets(problem, hosts, survivors):
            if budget.interrupted():
                return hosts
            unplaced, _ = survivors.pack(failure.hosts)
            if unplaced:
                hosts = (*hosts, *_new_hosts(survivors, failure, unplaced))
                complete = False
                break
    return hosts


def _new_hosts(
    survivors: Survivors, failure: FailureSet, units: Sequence[Unit]
) -> list[PackedHost]:
    """The cheapest empty hosts of one shape that hold the units, outside of the failed racks."""
    problem = survivors.problem
    best: list[PackedHost] = []
    best_cost = np.inf
    for shape, one in enumerate(problem.shapes):
        number = _hosts_needed(units, survivors.limits_of(shape))
        if number is None or number * one.cost >= best_cost:
            continue
        hosts = list(itertools.islice(_free_places(survivors, shape, failure), number))
        if len(hosts) == number:
            best, best_cost = hosts, number * one.cost
    if not best:
        machines = [problem.machines[machine] for unit in units for machine in unit.machines]
        names = ", ".join(repr(name) for name in machines[:5])
        raise PlanError(
            f"If {failure.name} fails, {len(machines)} machines cannot run on the other hosts: "
            f"{names}",
            hint="allow more hosts, or plan for fewer failures",
        )
    return best


def _free_places(survivors: Survivors, shape: int, failure: FailureSet) -> Iterator[PackedHost]:
    """Empty hosts that may be added: the places of named hosts, or any number of new ones."""
    one = survivors.problem.shapes[shape]
    used = {host.name for host in survivors.hosts}
    left = np.inf if one.count is None else one.count
    left -= sum(host.shape == shape for host in survivors.hosts)
    places = range(one.count) if one.count and (one.names or one.racks) else itertools.count()
    for place in places:
        if left <= 0:
            return
        name, rack = host_name(one, place), rack_name(one, place)
        if name not in used and rack not in failure.racks:
            left -= 1
            yield PackedHost(name, shape, rack, ())


def _hosts_needed(
    units: Sequence[Unit], limits: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> int | None:
    """Empty hosts for the units by first fit, None if a unit does not fit on any."""
    rooms: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    for unit in units:
        if (unit.size > limits * (1 + TOLERANCE)).any():
            return None
        fitting = [number for number, room in enumerate(rooms) if (unit.size <= room).all()]
        if fitting:
            rooms[fitting[0]] -= unit.size
        else:
            rooms.append(limits * (1 + TOLERANCE) - unit.size)
    return len(rooms)
