"""Contradictions between machines, hosts and constraints: each names the smallest conflict."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.errors import PlanError
from harness.planner.packing.bounds import lower_bound
from harness.planner.packing.items import Items, spread_limit
from harness.planner.problem import TOLERANCE, Problem, Shape
from harness.planner.together import merge
from harness.planner.trace import METRICS, UNITS

NAMED = 5  # so many machines are named in a message


def check_problem(problem: Problem) -> None:
    """Check what can be seen without the items. Raises PlanError."""
    _check_arrays(problem)
    _check_indices(problem)
    _check_pins(problem)
    _check_together(problem)
    for group in problem.constraints.apart:
        _check_number_of_hosts(problem, len(set(group)))
    _check_racks(problem)


def check_items(items: Items) -> None:
    """Check that each item fits on a host, pins fit together, and the total fits. PlanError."""
    problem, instance = items.problem, items.instance
    for item in np.flatnonzero(~instance.fits.any(axis=1)).tolist():
        _raise_too_large(problem, items.machines[item])
    for opened, number in zip(instance.opened, items.hosts, strict=True):
        shape = problem.shapes[opened.shape]
        pinned = tuple(m for item in opened.items for m in items.machines[item])
        if not _fits(problem, shape, pinned):
            smallest = _smallest(problem, (shape,), pinned)
            raise PlanError(
                f"{_names(problem, smallest)} must run on host {shape.names[number]!r}, but "
                f"{_excess(problem, shape, smallest)}",
                hint="pin fewer machines to this host",
            )
        for group in instance.groups:
            present = [item for item in opened.items if item in group.items]
            weight = sum(dict(zip(group.items, group.weights, strict=True))[i] for i in present)
            if weight > group.limit:
                machines = tuple(m for item in present for m in items.machines[item])
                raise PlanError(
                    f"{_names(problem, machines)} are pinned to host {shape.names[number]!r}, but "
                    f"no more than {group.limit} of them may share a host",
                    hint="pin them to different hosts, or remove the constraint",
                )
    bound = lower_bound(instance, items.dimension_name)
    if not np.isfinite(bound.value):
        available = int(instance.counts.sum())
        raise PlanError(
            f"{len(problem.machines)} machines do not fit on {available} hosts. "
            f"{bound.reason.removesuffix('.')}",
            hint="allow more hosts or larger ones, or raise the target utilization",
        )


def _check_arrays(problem: Problem) -> None:
    machines, demand = problem.machines, problem.demand
    if not problem.shapes:
        raise PlanError("No type of host is given", hint="describe at least one type of host")
    if demand.ndim != 3 or demand.shape[:2] != (len(machines), len(METRICS)) or not demand.shape[2]:
        raise PlanError(
            f"The demand of {len(machines)} machines has the shape {demand.shape}",
            hint="give each machine a demand in each metric and slot",
        )
    bad = ~(np.isfinite(demand) & (demand >= 0)).all(axis=(1, 2))
    if bad.any():
        machine = int(np.argmax(bad))
        metric = int(
            np.argmax(~(np.isfinite(demand[machine]) & (demand[machine] >= 0)).all(axis=1))
        )
        raise PlanError(
            f"The {METRICS[metric]} of {machines[machine]!r} is negative or not a number",
            hint="correct the trace of this machine",
        )
    for shape in problem.shapes:
        limits = np.stack([shape.usable, shape.failover]).astype(np.float64)
        if limits.shape != (2, len(METRICS)) or np.isnan(limits).any() or shape.cost < 0:
            raise PlanError(
                f"The host type {shape.name!r} has a wrong capacity or cost",
                hint="give each metric a number, and the host a cost that is not negative",
            )
        for metric in np.flatnonzero(limits[0] < 0).tolist():
            raise PlanError(
                f"The host type {shape.name!r} has no {METRICS[metric]} left for machines",
                hint="choose a larger host, or raise the target utilization",
            )
        if shape.count is not None and max(len(shape.names), len(shape.racks)) > shape.count:
            raise PlanError(
                f"The host type {shape.name!r} has {shape.count} hosts, but more names or racks",
                hint="give as many names and racks as hosts",
            )
        if shape.count is None and (shape.names or shape.racks):
            raise PlanError(
                f"The host type {shape.name!r} has names or racks, but no number of hosts",
                hint="give the number of hosts",
            )
        if shape.per_rack < 1:
            raise PlanError(
                f"The host type {shape.name!r} has {shape.per_rack} hosts in a rack",
                hint="give at least one host for each rack",
            )
    names = [name for shape in problem.shapes for name in shape.names]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise PlanError(f"Two hosts have the name {double!r}", hint="name each host once")


def _check_indices(problem: Problem) -> None:
    constraints = problem.constraints
    groups = (
        *constraints.apart,
        *constraints.together,
        *constraints.spread,
        *constraints.licensed,
        *constraints.conflicts,
        tuple(constraints.pins),
    )
    for group in groups:
        for machine in group:
            if not 0 <= machine < len(problem.machines):
                raise PlanError(
                    f"A constraint names machine number {machine} of {len(problem.machines)}",
                    hint="remove the constraint, or add the machine to the inventory",
                )
    for one, other in constraints.conflicts:
        if one == other:
            raise PlanError(
                f"{problem.machines[one]!r} must not share a host with itself",
                hint="remove this pair",
            )


def _check_pins(problem: Problem) -> None:
    known = {name for shape in problem.shapes for name in shape.names}
    for machine, name in problem.constraints.pins.items():
        if name not in known:
            raise PlanError(
                f"{problem.machines[machine]!r} must run on host {name!r}, which does not exist",
                hint="pin machines to hosts that exist and are kept",
            )


def _check_together(problem: Problem) -> None:
    """Machines that must be together, and apart, or on different hosts."""
    constraints, names = problem.constraints, problem.machines
    for members in merge(len(names), constraints.together):
        if len(members) == 1:
            continue
        inside = set(members)
        for kind, group in (
            *(("apart", group) for group in constraints.apart),
            *(("in conflict", pair) for pair in constraints.conflicts),
        ):
            both = sorted(inside.intersection(group))[:2]
            if len(both) == 2:
                raise PlanError(
                    f"{names[both[0]]!r} and {names[both[1]]!r} must be together, and {kind}",
                    hint="remove one of the two constraints",
                )
        pinned = [(m, constraints.pins[m]) for m in members if m in constraints.pins]
        for machine, host in pinned[1:]:
            if host != pinned[0][1]:
                raise PlanError(
                    f"{names[pinned[0][0]]!r} and {names[machine]!r} must be together, but are "
                    f"pinned to {pinned[0][1]!r} and {host!r}",
                    hint="pin them to the same host",
                )
        for group in constraints.spread:
            shared = tuple(sorted(inside.intersection(group)))
            if len(shared) > spread_limit(group) and len(set(group)) > 1:
                raise PlanError(
                    f"{_names(problem, shared)} must be together, but no more than "
                    f"{spread_limit(group)} of their group may share a rack",
                    hint="remove one of the two constraints",
                )


def _check_number_of_hosts(problem: Problem, needed: int) -> None:
    counts = [shape.count for shape in problem.shapes]
    available = sum(count or 0 for count in counts)
    if None not in counts and needed > available:
        raise PlanError(
            f"A group of {needed} machines must be apart, but there are {available} hosts",
            hint="allow more hosts, or make the group smaller",
        )


def _check_racks(problem: Problem) -> None:
    """All hosts that exist stand in one rack, but a group must be in two."""
    if any(shape.count is None or not shape.racks for shape in problem.shapes):
        return
    racks = {rack for shape in problem.shapes for rack in shape.racks}
    for group in problem.constraints.spread:
        if len(set(group)) > 1 and len(racks) < 2:
            raise PlanError(
                f"{_names(problem, group)} must be spread over racks, but all hosts are in one",
                hint="allow hosts in another rack, or remove the constraint",
            )


def _raise_too_large(problem: Problem, machines: tuple[int, ...]) -> None:
    smallest = _smallest(problem, problem.shapes, machines)

    def overload(shape: Shape) -> float:
        peaks = _peaks(problem, smallest)
        usable = np.maximum(np.asarray(shape.usable, np.float64), 1e-9)
        return float((peaks / usable).max())

    largest = min(problem.shapes, key=overload)
    what = "is too large for any host" if len(smallest) == 1 else "must be together on one host"
    raise PlanError(
        f"{_names(problem, smallest)} {what}: {_excess(problem, largest, smallest)}",
        hint="add a larger type of host, or leave out this machine"
        if len(smallest) == 1
        else "add a larger type of host, or make the group smaller",
    )


def _smallest(
    problem: Problem, shapes: Sequence[Shape], machines: tuple[int, ...]
) -> tuple[int, ...]:
    """Of machines that fit on no host of these shapes together, so few that none can be spared."""
    for machine in machines:
        rest = tuple(m for m in machines if m != machine)
        if not any(_fits(problem, shape, rest) for shape in shapes):
            machines = rest
    return machines


def _peaks(
    problem: Problem, machines: Sequence[int]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    demand = problem.demand[list(machines)].sum(axis=0, dtype=np.float64)
    return np.asarray(demand.max(axis=1), np.float64)


def _fits(problem: Problem, shape: Shape, machines: Sequence[int]) -> bool:
    return bool((_peaks(problem, machines) <= np.asarray(shape.usable) * (1 + TOLERANCE)).all())


def _excess(problem: Problem, shape: Shape, machines: Sequence[int]) -> str:
    """Such as "700 MiB of memory are needed, and a host of type x has 500"."""
    peaks, usable = _peaks(problem, machines), np.asarray(shape.usable, np.float64)
    metric = int(np.argmax(peaks / np.maximum(usable, 1e-9)))
    unit = UNITS[METRICS[metric]]
    return (
        f"{peaks[metric]:.6g} {unit} of {METRICS[metric]} are needed, and a host of type "
        f"{shape.name!r} has {usable[metric]:.6g}"
    )


def _names(problem: Problem, machines: Sequence[int]) -> str:
    names = [repr(problem.machines[machine]) for machine in machines[:NAMED]]
    if len(machines) > NAMED:
        names.append(f"{len(machines) - NAMED} more")
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
