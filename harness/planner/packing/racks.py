"""Names and racks of hosts. Hosts of one shape can change places, so racks are chosen last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.errors import PlanError
from harness.planner.packing.instance import Filling
from harness.planner.packing.items import Items, spread_limit
from harness.planner.problem import PackedHost, Problem, Shape

ATTEMPTS = 50  # orders in which hosts choose their racks


class NotSpreadError(PlanError):
    """The hosts of a packing do not stand in enough racks for a group that is to be spread."""


@dataclass
class _Places:
    """The free places of each shape, and how many machines of each spread group a rack has."""

    problem: Problem
    used: list[set[int]]
    counts: dict[tuple[int, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spread = self.problem.constraints.spread
        self.first = [0] * len(self.used)  # of each shape, the first free place
        self.limits = [spread_limit(group) for group in spread]
        self.groups: dict[int, list[int]] = {}
        for number, group in enumerate(spread):
            for machine in set(group) if len(set(group)) > 1 else ():
                self.groups.setdefault(machine, []).append(number)

    def members(self, machines: Sequence[int]) -> Counter[int]:
        """How many machines of each spread group are among these."""
        return Counter(group for machine in machines for group in self.groups.get(machine, ()))

    def allowed(self, rack: str, members: Counter[int]) -> bool:
        return all(
            self.counts.get((group, rack), 0) + number <= self.limits[group]
            for group, number in members.items()
        )

    def free(self, shape: int) -> Iterator[int]:
        """Numbers of hosts that have no filling yet, from the first. Endless for new hosts.

        New hosts may leave places free, so that a group is spread over more racks.
        """
        one = self.problem.shapes[shape]
        number = self.first[shape]
        while number < one.count if one.count is not None and (one.names or one.racks) else True:
            if number not in self.used[shape]:
                yield number
            number += 1

    def choose(self, shape: int, members: Counter[int]) -> int:
        """The first free place in a rack that allows it, -1 if there is none."""
        one = self.problem.shapes[shape]
        refused: set[str] = set()
        for number in self.free(shape):
            rack = rack_name(one, number)
            if rack not in refused:
                if self.allowed(rack, members):
                    return number
                refused.add(rack)
        return -1

    def take(self, shape: int, number: int, members: Counter[int]) -> None:
        self.used[shape].add(number)
        while self.first[shape] in self.used[shape]:
            self.first[shape] += 1
        rack = rack_name(self.problem.shapes[shape], number)
        for group, count in members.items():
            self.counts[group, rack] = self.counts.get((group, rack), 0) + count


def rack_name(shape: Shape, number: int) -> str:
    """The rack of a host of the shape: where it stands, or by per_rack."""
    if number < len(shape.racks):
        return shape.racks[number]
    return f"{shape.name}-rack-{number // shape.per_rack + 1}"


def host_name(shape: Shape, number: int) -> str:
    if number < len(shape.names):
        return shape.names[number]
    return f"{shape.name}-{number + 1}"


def place_hosts(items: Items, fillings: Sequence[Filling]) -> tuple[PackedHost, ...]:
    """Give each filling a name and a rack, such that groups are spread. Raises NotSpreadError."""
    problem = items.problem
    machines = [
        tuple(sorted(m for item in filling.items for m in items.machines[item]))
        for filling in fillings
    ]
    numbers = _numbers(items, fillings, machines)
    hosts = (
        PackedHost(
            host_name(problem.shapes[filling.shape], number),
            filling.shape,
            rack_name(problem.shapes[filling.shape], number),
            found,
        )
        for filling, number, found in zip(fillings, numbers, machines, strict=True)
    )
    order = sorted(range(len(fillings)), key=lambda k: (fillings[k].shape, numbers[k]))
    placed = tuple(hosts)
    return tuple(placed[k] for k in order)


def _numbers(
    items: Items, fillings: Sequence[Filling], machines: Sequence[tuple[int, ...]]
) -> list[int]:
    """Of each filling, its place among the hosts of its shape."""
    places = _Places(items.problem, [set() for _ in items.problem.shapes])
    members = [places.members(found) for found in machines]
    waiting = [k for k, filling in enumerate(fillings) if filling.opened < 0]
    # hosts with the most spread machines first: they have the least choice
    order = sorted(waiting, key=lambda one: -sum(members[one].values()))
    random = np.random.default_rng(0)
    for _ in range(ATTEMPTS):
        places = _Places(items.problem, [set() for _ in items.problem.shapes])
        numbers = [-1] * len(fillings)
        for k, filling in enumerate(fillings):
            if filling.opened >= 0:
                numbers[k] = items.hosts[filling.opened]
                rack = rack_name(items.problem.shapes[filling.shape], numbers[k])
                if not places.allowed(rack, members[k]):
                    raise _not_spread(items.problem, members[k])
                places.take(filling.shape, numbers[k], members[k])
        failed = _choose_places(places, fillings, order, members, numbers)
        if failed < 0:
            return numbers
        constrained = [k for k in waiting if members[k]]
        order = [constrained[k] for k in random.permutation(len(constrained))]
        order += [k for k in waiting if not members[k]]
    raise _not_spread(items.problem, members[failed])


def _choose_places(
    places: _Places,
    fillings: Sequence[Filling],
    order: Sequence[int],
    members: Sequence[Counter[int]],
    numbers: list[int],
) -> int:
    """Choose places in this order. Returns the first filling for which there is none, or -1."""
    for k in order:
        shape = fillings[k].shape
        number = places.choose(shape, members[k]) if members[k] else next(places.free(shape))
        if number < 0:
            return k
        numbers[k] = number
        places.take(shape, number, members[k])
    return -1


def _not_spread(problem: Problem, members: Counter[int]) -> NotSpreadError:
    group = problem.constraints.spread[max(members, key=lambda one: members[one])]
    names = ", ".join(repr(problem.machines[machine]) for machine in group[:5])
    return NotSpreadError(
        f"No more than {spread_limit(group)} machines of a group may share a rack, but no racks "
        f"were found for the hosts that run them: {names}",
        hint="allow hosts in more racks, or make the group smaller",
    )
