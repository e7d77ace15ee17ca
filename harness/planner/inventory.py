"""Machines and hosts as the sources describe them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import pyarrow as pa

from harness.errors import PlanError
from harness.planner.findings import FindingLog
from harness.planner.trace import HOSTS, MACHINES

MAX_NAME = 256
MAX_MACHINES = 1_000_000

Row = TypeVar("Row", "Machine", "Host")


@dataclass(frozen=True)
class Machine:
    """One row of trace.MACHINES. None: no source says so."""

    vm: str
    vcpus: float | None = None
    memory_mib: float | None = None
    disk_gib: float | None = None
    host: str | None = None
    cluster: str | None = None
    apart: str | None = None
    together: str | None = None
    licence: str | None = None
    pin: str | None = None
    powered_on: bool | None = None
    template: bool | None = None


@dataclass(frozen=True)
class Host:
    """One row of trace.HOSTS. None: no source says so."""

    host: str
    cluster: str | None = None
    model: str | None = None
    cores: float | None = None
    threads: float | None = None
    mhz: float | None = None
    memory_mib: float | None = None


class Inventory:
    """All machines and hosts of an import, by name. Later entries replace what they name."""

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self.hosts: dict[str, Host] = {}
        self._conflicts: dict[str, None] = {}

    def add_machine(self, machine: Machine) -> None:
        """Raises PlanError for a name or a number that cannot be."""
        known = self._known(machine)
        self.machines[machine.vm], conflict = _merge(known, machine)
        if conflict:
            self._conflicts[machine.vm] = None

    def complete_machine(self, machine: Machine) -> None:
        """Add what is derived from samples. What an inventory says counts more.

        Raises PlanError for a name or a number that cannot be.
        """
        known = self._known(machine)
        self.machines[machine.vm] = _merge(machine, known)[0]

    def _known(self, machine: Machine) -> Machine:
        """What is known about a machine, which may be nothing."""
        check_name(machine.vm, "machine")
        _check_numbers(machine, machine.vm)
        if machine.vm not in self.machines and len(self.machines) >= MAX_MACHINES:
            raise too_many_machines()
        return self.machines.get(machine.vm, Machine(machine.vm))

    def add_host(self, host: Host) -> None:
        """Raises PlanError for a name or a number that cannot be."""
        check_name(host.host, "host")
        _check_numbers(host, host.host)
        known = self.hosts.get(host.host)
        self.hosts[host.host] = _merge(known, host)[0] if known else host

    def vcpus(self, name: str) -> float | None:
        machine = self.machines.get(name)
        return machine.vcpus if machine else None

    def report(self, findings: FindingLog) -> None:
        """Add findings about the machines themselves."""
        machines = self.machines.values()
        findings.add("inventory-conflict", len(self._conflicts), self._conflicts)
        off = [one.vm for one in machines if one.powered_on is False and not one.template]
        findings.add("powered-off", len(off), off)
        templates = [one.vm for one in machines if one.template]
        findings.add("template", len(templates), templates)

    def machine_table(self) -> pa.Table:
        """The table with the schema MACHINES. All machines need a number of vCPUs."""
        rows = [
            {
                **_as_row(machine),
                "powered_on": machine.powered_on is not False,
                "template": machine.template is True,
            }
            for machine in self.machines.values()
        ]
        return pa.Table.from_pylist(rows, schema=MACHINES)

    def host_table(self) -> pa.Table:
        return pa.Table.from_pylist(list(map(_as_row, self.hosts.values())), schema=HOSTS)


def check_name(name: str, kind: str) -> None:
    """Raises PlanError unless `name` can name a machine or a host."""
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise PlanError(
            f"a name of a {kind} cannot be used: {name[:40]!r}",
            hint=f"name each {kind} with 1 to {MAX_NAME} printable characters",
        )


def too_many_machines() -> PlanError:
    return PlanError(
        f"the sources have more than {MAX_MACHINES} machines",
        hint="check that the column vm names machines, or plan pools one by one",
    )


def _as_row(row: Machine | Host) -> dict[str, object]:
    return {field.name: getattr(row, field.name) for field in fields(row)}


def _check_numbers(row: Machine | Host, name: str) -> None:
    for column, value in _as_row(row).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        smallest = 0.0 if column in ("disk_gib", "memory_mib") else 1e-3
        if not smallest <= value < 1e9:  # also false for NaN
            raise PlanError(
                f"column {column}: {value:g} of {name} is out of range",
                hint=f"correct {column}, or leave it empty where it is unknown",
            )


def _merge(known: Row, new: Row) -> tuple[Row, bool]:
    """The row with what the new one says, and whether that contradicts the known one."""
    stated: Mapping[str, object] = {k: v for k, v in _as_row(new).items() if v is not None}
    before = _as_row(known)
    conflict = any(before[k] is not None and not _same(before[k], v) for k, v in stated.items())
    return replace(known, **stated), conflict  # type: ignore[arg-type]


def _same(one: object, other: object) -> bool:
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other
