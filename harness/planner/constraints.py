"""Which machines share a host, and which must not: from hosts.toml and from the inventory.

    [constraints]
    apart = [["db1", "db2"], ["web-*"]]        # no two machines of a group share a host
    together = [["app", "cache"]]              # each group shares one host
    spread = [["web-*"]]                       # at most half of a group in one rack
    licensed = { database = ["db*"] }          # on as few hosts as possible
    pins = { firewall = "esx1" }               # the only host of a machine
    conflicts = [["payroll", "public"]]        # pairs that must not share a host

A name may be a pattern with * and ?.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.errors import PlanError
from harness.planner.problem import Constraints
from harness.planner.toml_table import TomlTable

Groups = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class NamedConstraints:
    """Constraints by the names of machines or patterns. pins: names of hosts by machine."""

    apart: Groups = ()
    together: Groups = ()
    spread: Groups = ()
    licensed: tuple[tuple[str, tuple[str, ...]], ...] = ()
    pins: Mapping[str, str] = field(default_factory=dict)
    conflicts: Groups = ()


@dataclass(frozen=True)
class InventoryGroups:
    """What the inventory says of each machine; None where it says nothing."""

    apart: Sequence[str | None]
    together: Sequence[str | None]
    licence: Sequence[str | None]
    pin: Sequence[str | None]


def read_constraints(table: TomlTable) -> NamedConstraints:
    """Read and check the section. Raises PlanError."""
    licensed, pins = table.table("licensed"), table.table("pins")
    conflicts = table.groups("conflicts")
    for pair in conflicts:
        if len(pair) != 2:
            raise table.error(
                f"{table.label('conflicts')} has a group of {len(pair)} names",
                "give pairs, or use apart for more machines",
            )
    constraints = NamedConstraints(
        apart=table.groups("apart"),
        together=table.groups("together"),
        spread=table.groups("spread"),
        licensed=tuple((name, licensed.texts(name)) for name in licensed.keys()),  # noqa: SIM118
        pins={name: pins.text(name) or "" for name in pins.keys()},  # noqa: SIM118
        conflicts=conflicts,
    )
    table.finish()
    return constraints


@dataclass(frozen=True)
class ResolvedConstraints:
    """Constraints by index. licences: the name of each group of `constraints.licensed`."""

    constraints: Constraints
    licences: tuple[str, ...]


def resolve(
    named: NamedConstraints,
    machines: Sequence[str],
    inventory: InventoryGroups,
) -> ResolvedConstraints:
    """All constraints as indices of machines. Raises PlanError for a name that no machine has.

    The solver finds constraints that contradict each other.
    """
    finder = _Finder(machines)
    licensed = {name: set(finder.group(group, "licensed")) for name, group in named.licensed}
    for licence, members in _by_name(inventory.licence).items():
        licensed.setdefault(licence, set()).update(members)
    pins = {index: host for index, host in enumerate(inventory.pin) if host is not None}
    pins.update({finder.one(name, "pins"): host for name, host in named.pins.items()})
    constraints = Constraints(
        apart=(*finder.groups(named.apart, "apart"), *_by_name(inventory.apart).values()),
        together=(
            *finder.groups(named.together, "together"),
            *_by_name(inventory.together).values(),
        ),
        spread=tuple(finder.groups(named.spread, "spread")),
        licensed=tuple(tuple(sorted(members)) for members in licensed.values()),
        pins=pins,
        conflicts=tuple(
            (finder.one(one, "conflicts"), finder.one(other, "conflicts"))
            for one, other in named.conflicts
        ),
    )
    return ResolvedConstraints(constraints, tuple(licensed))


class _Finder:
    """Indices of machines by name or pattern."""

    def __init__(self, machines: Sequence[str]) -> None:
        self._machines = machines
        self._places = {name: index for index, name in enumerate(machines)}

    def one(self, name: str, key: str) -> int:
        if name not in self._places:
            raise PlanError(
                f"constraints.{key} names the machine {name!r}, which is not planned",
                hint="name a machine of the data, or leave it out",
            )
        return self._places[name]

    def group(self, names: Sequence[str], key: str) -> tuple[int, ...]:
        found: dict[int, None] = {}
        for name in names:
            if name in self._places or not set(name) & set("*?["):
                matches = [self.one(name, key)]
            else:
                matches = [self._places[one] for one in fnmatch.filter(self._machines, name)]
            if not matches:
                raise PlanError(
                    f"constraints.{key} has the pattern {name!r}, which no planned machine matches",
                    hint="correct the pattern, or leave it out",
                )
            found.update(dict.fromkeys(matches))
        return tuple(found)

    def groups(self, groups: Groups, key: str) -> list[tuple[int, ...]]:
        return [self.group(group, key) for group in groups]


def _by_name(names: Sequence[str | None]) -> dict[str, tuple[int, ...]]:
    """The machines of each group that the inventory names."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        if name is not None:
            groups.setdefault(name, []).append(index)
    return {name: tuple(members) for name, members in groups.items()}
