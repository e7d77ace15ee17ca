"""Problems for tests of the solver, and a second implementation of all that a packing must keep."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.planner.problem import Constraints, PackedHost, Packing, Problem, Shape
from harness.planner.trace import METRICS

INFINITE = float("inf")


def host_type(
    name: str = "h",
    *usable: float,
    failover: Sequence[float] = (),
    count: int | None = None,
    cost: float = 1.0,
    per_rack: int = 20,
    racks: Sequence[str] = (),
    names: Sequence[str] = (),
) -> Shape:
    """A shape. Metrics that are not given have no limit."""
    rest = [INFINITE] * len(METRICS)

    def limits(values: Sequence[float]) -> NDArray[np.float32]:
        return np.asarray([*values, *rest[len(values) :]], np.float32)

    return Shape(
        name,
        limits(usable),
        limits(failover or usable),
        count,
        cost,
        per_rack,
        tuple(racks),
        tuple(names),
    )


def problem_of(
    demand: Iterable[Sequence[float]] | NDArray[np.float32],
    shapes: Shape | Sequence[Shape],
    constraints: Constraints | None = None,
    *,
    spare: int = 0,
    spare_racks: int = 0,
) -> Problem:
    """A problem. demand: (machines, slots) of CPU, or (machines, metrics, slots)."""
    values = np.asarray(demand, np.float32)
    if values.ndim == 2:
        values = values[:, None, :]
    full = np.zeros((len(values), len(METRICS), values.shape[2]), np.float32)
    full[:, : values.shape[1]] = values
    names = [f"vm{k}" for k in range(len(values))]
    several = (shapes,) if isinstance(shapes, Shape) else tuple(shapes)
    return Problem(names, full, several, constraints or Constraints(), spare, spare_racks)


def violations(problem: Problem, packing: Packing) -> list[str]:
    """Each broken rule as a sentence. It shares no code with the solver."""
    return [
        *_placement(problem, packing),
        *_capacities(problem, packing),
        *_broken_constraints(problem.constraints, packing),
    ]


def _broken_constraints(constraints: Constraints, packing: Packing) -> Iterable[str]:
    host_of = {m: k for k, host in enumerate(packing.hosts) for m in host.machines}
    for group in constraints.together:
        if len({host_of[m] for m in group}) > 1:
            yield f"{group} are not together"
    for group in (*constraints.apart, *constraints.conflicts):
        if len({host_of[m] for m in set(group)}) < len(set(group)):
            yield f"{group} are not apart"
    for group in constraints.spread:
        racks = Counter(packing.hosts[host_of[m]].rack for m in set(group))
        if 2 * max(racks.values(), default=0) > len(set(group)) > 1:
            # of three machines one may be in each rack: half of three is one
            yield f"{group} are not spread: {racks}"
    for machine, name in constraints.pins.items():
        if packing.hosts[host_of[machine]].name != name:
            yield f"{machine} is not on {name}"


def _placement(problem: Problem, packing: Packing) -> Iterable[str]:
    placed = Counter(machine for host in packing.hosts for machine in host.machines)
    if placed != Counter(range(len(problem.machines))):
        yield "not every machine runs on exactly one host"
    if len({host.name for host in packing.hosts}) < len(packing.hosts):
        yield "two hosts have one name"
    for number, shape in enumerate(problem.shapes):
        own = [host for host in packing.hosts if host.shape == number]
        if shape.count is not None and len(own) > shape.count:
            yield f"more hosts of {shape.name} than there are"
        if shape.names and len(shape.names) == shape.count:
            places = dict(zip(shape.names, shape.racks, strict=False))
            for host in own:
                if host.name not in shape.names or places.get(host.name, host.rack) != host.rack:
                    yield f"{host.name} does not exist in {host.rack}"
        sizes = Counter(host.rack for host in own)
        if not shape.racks and sizes and max(sizes.values()) > shape.per_rack:
            yield f"a rack of {shape.name} is too full"


def _capacities(problem: Problem, packing: Packing) -> Iterable[str]:
    for host in packing.hosts:
        usable = problem.shapes[host.shape].usable
        for metric, slot in itertools.product(range(len(METRICS)), range(problem.demand.shape[2])):
            total = sum(float(problem.demand[m, metric, slot]) for m in host.machines)
            if total > float(usable[metric]) * (1 + 1e-6):
                yield f"{host.name} is over {METRICS[metric]} in slot {slot}: {total}"


def optimum(problem: Problem) -> int:
    """The fewest hosts of one type, by dynamic programming over all sets of machines.

    For at most 12 machines, and constraints that concern single hosts.
    """
    count = len(problem.machines)
    host = PackedHost("h", 0, "r", ())
    possible = []
    for chosen in range(1, 1 << count):
        machines = tuple(m for m in range(count) if chosen >> m & 1)
        packed = PackedHost(host.name, host.shape, host.rack, machines)
        packing = Packing((packed,), 0, "", "feasible", 0)
        if not list(_capacities(problem, packing)) and _allowed(problem, set(machines)):
            possible.append(chosen)
    best = {0: 0}
    for done in range(1, 1 << count):
        first = done & -done
        options = [best[done & ~one] + 1 for one in possible if one & first and one & done == one]
        best[done] = min((o for o in options), default=count + 1)
    return best[(1 << count) - 1]


def _allowed(problem: Problem, machines: set[int]) -> bool:
    constraints = problem.constraints
    apart = all(
        len(machines.intersection(group)) <= 1
        for group in (*constraints.apart, *constraints.conflicts)
    )
    return apart and all(
        not machines.intersection(group) or machines.issuperset(group)
        for group in constraints.together
    )


@st.composite
def problems(draw: st.DrawFn, *, most: int = 14, constrained: bool = True) -> Problem:
    """Problems of machines that each fit on a host; their constraints do not contradict."""
    count = draw(st.integers(1, most))
    metrics, slots = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    size = st.sampled_from([0, 0.5, 1, 2, 3, 4, 5, 7])
    demand = np.asarray(
        draw(st.lists(size, min_size=count * metrics * slots, max_size=count * metrics * slots)),
        np.float32,
    ).reshape(count, metrics, slots)
    usable = draw(st.lists(st.sampled_from([7, 8, 10, 21.5]), min_size=metrics, max_size=metrics))
    shapes = [host_type("h", *usable, per_rack=draw(st.integers(1, 4)))]
    if draw(st.booleans()):
        doubled = [2 * one for one in usable]
        bounded = draw(st.one_of(st.none(), st.integers(1, 2)))
        shapes.append(
            host_type("big", *doubled, count=bounded, cost=draw(st.sampled_from([1, 1.7, 3])))
        )
    constraints = draw(_constraints(demand, usable)) if constrained else Constraints()
    return problem_of(demand, shapes, constraints)


@st.composite
def _constraints(
    draw: st.DrawFn, demand: NDArray[np.float32], usable: Sequence[float]
) -> Constraints:
    count = len(demand)
    machines = st.integers(0, count - 1)
    together: tuple[tuple[int, ...], ...] = ()
    pair = tuple(draw(st.sets(machines, max_size=2)))
    if (demand[list(pair)].sum(axis=0) <= np.asarray(usable)[:, None]).all():
        together = (pair,) if len(pair) == 2 else ()
    joined = set(pair) if together else set()

    def separated(groups: Iterable[set[int]]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(sorted(group - joined)) for group in groups if len(group - joined) > 1)

    sets = st.lists(st.sets(machines, max_size=5), max_size=2)
    pairs = separated(draw(st.lists(st.sets(machines, min_size=0, max_size=2), max_size=3)))
    return Constraints(
        apart=separated(draw(sets)),
        together=together,
        spread=separated(draw(sets)),
        licensed=tuple(tuple(sorted(group)) for group in draw(sets)),
        conflicts=tuple((one[0], one[1]) for one in pairs),
    )
