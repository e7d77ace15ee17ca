"""Makes the parts of a plan from packings and from what their hosts carry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.planner.bound import LowerBound
from harness.planner.cases import Case
from harness.planner.money import total_cost
from harness.planner.packed_case import PackedCase
from harness.planner.plan import (
    Backtest,
    Demand,
    Fleet,
    Move,
    PlannedHost,
    Variant,
)
from harness.planner.reduction import CPU, MEMORY, Profile
from harness.planner.samples import weekly_maxima
from harness.planner.trace import METRICS
from harness.planner.verification import HostLoads


def planned_hosts(packed: PackedCase, loads: HostLoads) -> tuple[PlannedHost, ...]:
    """Hosts with what they carry, as verified on all samples."""
    machines = packed.profile.machines.names
    peaks, hours = loads.peaks(), loads.hours()
    watts = loads.watts(loads.utilization())
    planned = [metric for metric, used in zip(METRICS, packed.profile.planned, strict=True) if used]
    return tuple(
        PlannedHost(
            name=one.name,
            type=of_type.name,
            rack=one.rack,
            machines=tuple(machines[index] for index in one.machines),
            peak={metric: float(peaks[row, METRICS.index(metric)]) for metric in planned},
            hours=tuple(float(share) for share in hours[row]),
            watts=float(watts[row]),
            existing=one.name in of_type.names,
        )
        for row, (one, of_type) in enumerate(zip(packed.hosts, packed.types, strict=True))
    )


def moves(profile: Profile, hosts: Sequence[PlannedHost]) -> tuple[Move, ...]:
    """Machines that change their host. A machine without a known host moves, too."""
    today = dict(zip(profile.machines.names, profile.machines.hosts, strict=True))
    return tuple(
        Move(machine, today[machine] or "", host.name)
        for host in hosts
        for machine in host.machines
        if today[machine] != host.name
    )


def demand_rows(packed: PackedCase) -> tuple[Demand, ...]:
    """The sums of all machines beside what is allocated and what the hosts can carry.

    0 stands for what is not known.
    """
    profile, model = packed.profile, packed.case.model
    machines = profile.machines
    totals = model.totals(profile).astype(np.float32)
    hours = weekly_maxima(totals, profile.grid)
    allocated = np.zeros(len(METRICS))
    allocated[CPU] = (machines.vcpus * machines.rating).sum() + machines.off_vcpus
    allocated[MEMORY] = np.nansum(machines.memory_mib) + machines.off_memory_mib
    usable = np.zeros(len(METRICS))
    for one in packed.types:
        usable += model.usable(one)
    return tuple(
        Demand(
            metric=name,
            hours=tuple(float(value) for value in hours[metric]),
            allocated=float(allocated[metric]),
            usable=float(usable[metric]) if np.isfinite(usable[metric]) else 0.0,
        )
        for metric, name in enumerate(METRICS)
        if profile.planned[metric]
    )


def variant(case: Case, fleet: Fleet, bound: LowerBound) -> Variant:
    return Variant(
        name=case.name,
        hosts=fleet.hosts,
        bound=bound.hosts,
        racks=fleet.racks,
        kw=fleet.kw,
        kwh=fleet.kwh,
        kg_co2=fleet.kg_co2,
        cost=total_cost(fleet),
        note=case.note,
    )


def backtest(loads: HostLoads, planned: Profile) -> Backtest:
    """loads: of the later part of the trace. planned: of the part that was planned on."""
    return Backtest(
        planned_days=planned.grid.days,
        checked_days=loads.grid.days,
        hosts=len(loads.types),
        samples=loads.busy.size,
        over_target=int(loads.over_target().sum()),
        over_capacity=int(loads.over_capacity().sum()),
        worst=loads.worst(),
    )


def headline(before: Fleet | None, after: Fleet, machines: int, bound: LowerBound) -> str:
    """Such as "412 servers to 31 hosts, bound 30"."""
    start = f"{before.hosts} servers to" if before else f"{machines} machines on"
    return f"{start} {after.hosts} host{'s' if after.hosts != 1 else ''}, bound {bound.hosts}"
