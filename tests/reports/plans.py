"""Synthetic plans and imports for tests. No figure here was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.planner.plan import (
    PLAN_VERSION,
    Assumption,
    Backtest,
    Demand,
    Failure,
    Fleet,
    MachineAdvice,
    Move,
    Plan,
    PlannedHost,
    Sensitivity,
    Variant,
)
from harness.planner.trace import DATA_VERSION, Finding, Import, Source
from reports import plan as plan_page
from tests.reports.checks import checked_page
from tests.reports.page import Element

HOURS = 168
START = 1_767_571_200.0  # Monday 5 Jan 2026, 0:00 UTC
DAY = 86_400.0
BEFORE = Fleet(
    hosts=120,
    cores=2880.0,
    memory_gib=46_080.0,
    racks=8,
    rack_units=240.0,
    kw=44.0,
    kwh=385_440.0,
    kg_co2=180_000.0,
    energy_cost=50_107.0,
    hardware_cost=None,
    licence_cost=None,
    rack_cost=14_400.0,
    cpu_utilization=0.05,
)
AFTER = Fleet(
    hosts=31,
    cores=992.0,
    memory_gib=15_872.0,
    racks=2,
    rack_units=62.0,
    kw=9.8,
    kwh=85_848.0,
    kg_co2=41_000.0,
    energy_cost=11_160.0,
    hardware_cost=None,
    licence_cost=None,
    rack_cost=3_720.0,
    cpu_utilization=0.31,
)


def office_week(level: float, seed: int, weekend: float = 0.4) -> tuple[float, ...]:
    """The highest share in each hour of the week: busy by day, quiet by night."""
    random = np.random.default_rng(seed)
    hour = np.arange(HOURS)
    day = np.clip(np.sin((hour % 24 - 6) / 12 * math.pi), 0, None)
    shape = 0.25 + 0.75 * day * np.where(hour < 120, 1.0, weekend)
    noisy = level * shape * random.uniform(0.85, 1.0, HOURS)
    return tuple(float(one) for one in noisy)


def planned_hosts(count: int, machines: int) -> tuple[PlannedHost, ...]:
    """Hosts with equally many machines; the first ones are the busiest."""
    made = []
    for number in range(count):
        own = range(number * machines // count, (number + 1) * machines // count)
        hours = office_week(1.0 - 0.6 * number / count, number)
        made.append(
            PlannedHost(
                name=f"esx-{number + 1:03}",
                type="2 x 16 cores, 512 GiB" if number % 3 else "2 x 32 cores, 1 TiB",
                rack=f"rack-{number // 20 + 1}",
                machines=tuple(f"vm-{one:05}" for one in own),
                peak={"cpu": max(hours), "memory": 0.94 - number / count / 10, "network": 0.12},
                hours=hours,
                watts=300.0 + number % 7,
                existing=number % 4 == 0,
            )
        )
    return tuple(made)


def variants(hosts: int) -> tuple[Variant, ...]:
    own = Variant("this plan", hosts, hosts - 1.0, 2, 9.8, 85_848.0, 41_000.0, 14_880.0)
    more = {"grow=1.2": (1.2, "every machine needs 20 % more"), "burst=1.5": (1.1, "")}
    return (
        own,
        *(
            replace(
                own,
                name=name,
                hosts=math.ceil(hosts * by),
                bound=math.floor(hosts * by) - 1.0,
                kw=9.8 * by,
                note=note,
            )
            for name, (by, note) in more.items()
        ),
        replace(own, name="host=old", hosts=hosts * 2, bound=2.0 * hosts - 3, cost=None),
    )


ASSUMPTIONS = (
    Assumption("Target utilization", "0.7 of the cores", "assumed"),
    Assumption("PUE", "1.54", "Uptime Institute, survey of 2025"),
    Assumption("CO₂ of electricity", "0.39 kg/kWh", "EIA, United States, 2022"),
    Assumption("Price of electricity", "0.13 USD/kWh", "given"),
)


def advice(machines: int) -> tuple[MachineAdvice, ...]:
    """One of ten machines is comatose, and one of ten is oversized."""
    idle = [
        MachineAdvice(
            f"vm-{one:05}", "comatose", 2.0, 4096.0, 0.004, 0.02, "switch it off, or delete it"
        )
        for one in range(0, machines, 10)
    ]
    large = [
        MachineAdvice(
            *(f"vm-{one:05}", "oversized", 16.0, None if one % 20 == 5 else 65_536.0),
            *(0.4, 2.1, "4 virtual CPUs are enough"),
        )
        for one in range(5, machines, 10)
    ]
    return (*idle, *large)


def make_plan(machines: int = 412, hosts: int = 31) -> Plan:
    """A plan with every section filled."""
    planned = planned_hosts(hosts, machines)
    racks = sorted({host.rack for host in planned})
    failures = [Failure(host.name, len(host.machines), (), 0.97) for host in planned]
    failures += [Failure(rack, 200, ("vm-00001", "vm-00002"), 0.99) for rack in racks[:1]]
    demand = office_week(0.6 * machines, 7)
    return Plan(
        version=PLAN_VERSION,
        headline=f"{machines} servers to {hosts} hosts, bound {hosts - 1}",
        data="data/frankfurt",
        currency="EUR",
        before=BEFORE,
        after=replace(AFTER, hosts=hosts),
        bound=hosts - 1.0,
        bound_reason="memory needs so many on Tuesday at 10:00",
        interrupted=False,
        banners=("The trace covers 5 days. A plan needs at least 7.",),
        hosts=planned,
        failures=tuple(failures),
        variants=variants(hosts),
        backtest=Backtest(21.0, 9.0, hosts, 80_352, 233, 0, 0.94),
        advice=advice(machines),
        moves=tuple(
            Move(machine, f"old-{int(machine[3:]) % 89:03}", host.name)
            for host in planned
            for machine in host.machines[1:]
        ),
        tornado=(
            Sensitivity("Growth", "1.0", "1.4", 31.0, 43.0, 31.0, "hosts"),
            Sensitivity("Target utilization", "0.8", "0.6", 27.0, 36.0, 31.0, "hosts"),
            Sensitivity("Burst", "1.0", "1.3", 30.0, 33.0, 31.0, "hosts"),
            Sensitivity("PUE", "1.2", "1.9", 12_100.0, 17_400.0, 14_880.0, "EUR a year"),
            Sensitivity("Price of electricity", "0.08", "0.30", 10_600.0, 29_500.0, 14_880.0,
                        "EUR a year"),
        ),
        demand=(
            Demand("cpu", demand, 3.1 * machines, 0.95 * machines),
            Demand("memory", tuple(2048 * one for one in demand), 8192.0 * machines, 2.6e6),
            Demand("network", office_week(900, 3), 0.0, 0.0),
        ),
        assumptions=ASSUMPTIONS,
        without_trace=tuple(f"new-{number}" for number in range(3)),
        left_out=("template-debian",),
    )  # fmt: skip


def make_import(machines: int = 415, days: float = 30.0) -> Import:
    return Import(
        version=DATA_VERSION,
        start=START,
        end=START + days * DAY,
        step=300.0,
        samples=int(machines * days * 288),
        machines=machines,
        with_trace=machines - 3,
        sources=(
            Source(
                *("frankfurt.xlsx", "rvtools", "5f" * 32, machines),
                ("memory is in MiB", "the header is that of RVTools 4"),
            ),
            Source("metrics.parquet", "csv", "a7" * 32, 3_500_000, ()),
        ),
        findings=(
            Finding("dst", "note", "The clocks changed on 29 Mar: one hour is a gap.", 412),
            Finding(
                *("gap", "warning", "Gaps of more than 15 minutes. They count as not known.", 91),
                ("vm-00007", "vm-00011"),
            ),
            Finding("templates", "note", "Templates are left out.", 1, ("template-debian",)),
            Finding("off", "note", "Machines that are powered off have no load.", 2),
            Finding("no-trace", "warning", "Machines without a trace.", 3, ("new-0", "new-1")),
            Finding("counter-reset", "note", "A counter began again: that step is a gap.", 5),
            Finding("duplicate", "note", "Equal times of one machine: the last value was kept.", 9),
        ),
    )


def page_of(plan: Plan, imported: Import | None = None) -> Element:
    """The page of a plan, after the checks for all pages."""
    return checked_page(plan_page.to_html(plan, Path("plan.html"), imported))


def mapped(value: Any, change: Callable[[Any], Any], fixed: tuple[str, ...] = ()) -> Any:
    """A plan or an import with each plain value changed, without the fields named in `fixed`."""
    if is_dataclass(value) and not isinstance(value, type):
        new = {
            field.name: mapped(getattr(value, field.name), change, fixed)
            for field in fields(value)
            if field.name not in fixed
        }
        return replace(value, **new)
    if isinstance(value, tuple):
        return tuple(mapped(one, change, fixed) for one in value)
    if isinstance(value, dict):
        return {change(name): mapped(one, change, fixed) for name, one in value.items()}
    return change(value)
