"""The cases that are planned beside the plan itself: what-ifs, other views, sensitivities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import PlanError
from harness.planner.hosts_file import HostsFile, HostType, Site
from harness.planner.model import Model
from harness.planner.plan import Assumption
from harness.planner.reduction import CPU, IOPS, MEMORY, NETWORK, Profile

View = Literal["time", "peaks", "p95", "allocation"]
_P95_HEADROOM = 1.2
_VCPUS_PER_CORE = 4.0
_RANGES = {
    "grow": (0.1, 100.0),
    "burst": (1.0, 10.0),
    "pue": (1.0, 10.0),
    "price": (0.0, 1e6),
    "utilization": (0.05, 0.95),
}
_KEYS = ("grow", "host", "fail", "burst", "pue", "price", "utilization")


@dataclass(frozen=True)
class Case:
    """What one packing is made from. types: that hosts may have. view: of the machines' demand."""

    name: str
    model: Model
    types: tuple[HostType, ...]
    site: Site
    view: View = "time"
    note: str = ""


@dataclass(frozen=True)
class WhatIf:
    """One option --what-if: changes by name, such as {"grow": "1.2", "host": "new"}."""

    text: str
    changes: tuple[tuple[str, str], ...]


def parse_what_if(text: str) -> WhatIf:
    """Parse such as "grow=1.2,host=new". Raises PlanError."""
    changes: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (one.strip() for one in part.partition("="))
        if not equals or not value or name not in _KEYS or name in changes:
            raise PlanError(
                f"--what-if {text[:80]!r} cannot be used: {part[:80]!r}",
                hint=f"give NAME=VALUE, with each NAME once, of {', '.join(_KEYS)}",
            )
        changes[name] = value
    for name, value in changes.items():
        if name in _RANGES:
            _number(name, value)
        elif name == "fail" and value not in ("host", "rack"):
            raise PlanError(f"--what-if fail={value[:80]}", hint="use fail=host or fail=rack")
    return WhatIf(text, tuple(changes.items()))


def _number(name: str, text: str) -> float:
    low, high = _RANGES[name]
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not low <= value <= high:
        raise PlanError(
            f"--what-if {name}={text[:80]}", hint=f"give a number from {low:g} to {high:g}"
        )
    return value


def what_if_case(base: Case, what_if: WhatIf, hosts: HostsFile) -> Case:
    """The plan's own case with the changes. Raises PlanError for an unknown type of host."""
    case = replace(base, name=what_if.text)
    for name, text in what_if.changes:
        if name == "host":
            case = replace(case, types=(hosts.type_of(text),))
        elif name == "fail":
            case = _with_failure(case, text)
        else:
            case = changed(case, name, _number(name, text))
    return case


def _with_failure(case: Case, what: str) -> Case:
    model = case.model
    if what == "host":
        model = replace(model, spare=model.spare + 1)
        note = f"any {model.spare} hosts may fail" if model.spare > 1 else "any host may fail"
    else:
        model = replace(model, spare_racks=model.spare_racks + 1)
        racks = model.spare_racks
        note = f"any {racks} racks may fail" if racks > 1 else "any rack may fail"
    return replace(case, model=model, note=note)


def changed(case: Case, name: str, value: float) -> Case:
    """A case with one number changed: grow, burst, utilization, pue or price."""
    model, site = case.model, case.site
    if name == "grow":
        model = replace(model, growth=model.growth * value)
    elif name == "burst":
        model = replace(model, burst=value)
    elif name == "utilization":
        overhead = model.overhead.with_utilization(value, "given")
        model = replace(model, overhead=overhead)
    elif name == "pue":
        site = replace(site, pue=value)
    else:
        site = replace(site, energy_price=value)
    return replace(case, model=model, site=site)


def view_cases(base: Case) -> list[Case]:
    """How many hosts other ways to look at the same machines lead to."""
    return [
        replace(
            base,
            name="each machine's own peak",
            view="peaks",
            note="as if all machines had their highest demand at the same time",
        ),
        replace(
            base,
            name=f"P95 of CPU + {_P95_HEADROOM - 1:.0%}",
            view="p95",
            note="no guarantee: what is above the percentile is not seen",
        ),
        replace(
            base,
            name=f"allocation, {_VCPUS_PER_CORE:g} vCPUs a core",
            view="allocation",
            note="nothing measured is used",
        ),
    ]


VIEW_ASSUMPTION = Assumption(
    "vCPUs a core in the view of the allocation", f"{_VCPUS_PER_CORE:g}", "assumed"
)


def viewed(profile: Profile, case: Case) -> Profile:
    """The profile as the case's view sees it: of one slot, unless it is the view over time."""
    if case.view == "time":
        return profile
    demand = np.fmax(profile.peak, np.nan_to_num(profile.constant))
    if case.view == "p95":
        measured = ~np.isnan(profile.cpu_p95)
        demand[measured, CPU] = profile.cpu_p95[measured] * _P95_HEADROOM
    elif case.view == "allocation":
        demand = _allocation(profile, case.model, demand)
    return replace(profile, demand=demand[:, :, None].astype(np.float32))


def _allocation(profile: Profile, model: Model, demand: NDArray[np.float32]) -> NDArray[np.float32]:
    machines = profile.machines
    # of all cores of a host, not of the target share
    share = model.overhead.utilization / _VCPUS_PER_CORE / model.overhead.demand
    result = demand.copy()
    result[:, CPU] = machines.vcpus * machines.rating * share
    result[:, MEMORY] = np.where(
        np.isnan(machines.memory_mib), demand[:, MEMORY], machines.memory_mib
    )
    result[:, [IOPS, NETWORK]] = 0
    return result
