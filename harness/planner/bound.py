"""The fewest hosts of any plan, and what needs so many.

Sums over all machines are exact at every sample. The solver's own bound, which also sees large
machines and groups that are apart, counts at moments only: the highest of each hour, summed over
machines, is more than they need at any moment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from harness.planner.cases import viewed
from harness.planner.hosts_file import HostType
from harness.planner.model import make_problem
from harness.planner.packed_case import PackedCase
from harness.planner.packing.bounds import lower_bound as solver_bound
from harness.planner.packing.items import make_items
from harness.planner.problem import Constraints
from harness.planner.reduction import CPU, MEMORY
from harness.planner.trace import METRICS

_NAMES = {"cpu": "CPU", "memory": "memory", "iops": "IOPS", "network": "network"}
_ROUNDING = 1e-6  # of sums of float32


@dataclass(frozen=True)
class LowerBound:
    """hosts: no plan has fewer. reason: a sentence."""

    hosts: int
    reason: str


def lower_bound(packed: PackedCase, constraints: Constraints) -> LowerBound:
    """The highest bound that is known for a case."""
    found = [*_by_totals(packed)]
    packing = packed.packing
    exact = packed.case.view != "time" or packed.profile.slots.single.all()
    if exact and packed.counts_hosts:
        found.append(LowerBound(math.ceil(packing.bound - _ROUNDING), packing.bound_reason))
    elif packed.case.view == "time":
        found += _at_moments(packed, constraints)
    return max(found, key=lambda one: one.hosts)


def _by_totals(packed: PackedCase) -> list[LowerBound]:
    """By the sums of all machines, at all times and while hosts have failed."""
    case, model = packed.case, packed.case.model
    profile = viewed(packed.profile, case)
    if case.view == "time":
        totals = model.totals(profile)
    else:
        totals = model.demand(profile).sum(axis=0, dtype=np.float64)
    limits = (
        [np.where(profile.planned, of(one), np.inf) for one in case.types]
        for of in (model.usable, model.failover)
    )
    usable, failover = (_fewest_hosts(totals, case.types, limit) for limit in limits)
    hosts, metric, moment = usable
    reason = f"The {_NAMES[METRICS[metric]]} of all machines needs so many hosts"
    if metric != MEMORY and case.view == "time":
        time = profile.grid.start + moment * profile.grid.step
        reason += f" on {datetime.fromtimestamp(time, UTC):%A %d %B %Y at %H:%M} UTC"
    found = [LowerBound(hosts, f"{reason}.")]
    if failing := max(model.spare, model.spare_racks):
        text = "a host has" if failing == 1 else f"{failing} hosts have"
        reason = f"After {text} failed, the others must carry all machines."
        found.append(LowerBound(failover[0] + failing, reason))
    return found


def _at_moments(packed: PackedCase, constraints: Constraints) -> list[LowerBound]:
    """The solver's bound, in hosts, for the slots that are single moments."""
    profile, case = packed.profile, packed.case
    single = profile.slots.single
    if not single.any():
        return []
    moments = replace(profile, demand=profile.demand[:, :, single])
    costs = [1.0] * len(case.types)
    items = make_items(make_problem(moments, case.model, case.types, costs, constraints))
    times = np.flatnonzero(single)

    def name(dimension: int) -> str:
        metric, slot = items.dimensions[dimension]
        if slot < 0:
            return _NAMES[METRICS[metric]]
        moment = int(np.flatnonzero(profile.slots.slot_of == times[slot])[0])
        time = datetime.fromtimestamp(profile.grid.start + moment * profile.grid.step, UTC)
        return f"{_NAMES[METRICS[metric]]} on {time:%A %d %B %Y at %H:%M} UTC"

    bound = solver_bound(items.instance, name)
    return [LowerBound(bound.hosts, bound.reason)]


def _fewest_hosts(
    totals: NDArray[np.float64],
    types: tuple[HostType, ...],
    limits: list[NDArray[np.float64]],
) -> tuple[int, int, int]:
    """The fewest hosts whose capacity is the sum of all machines at every moment.

    totals: (METRICS, moments). limits: of each type. Returns the number, and the metric and the
    moment that need it.
    """
    best = (0, CPU, 0)
    for metric, moments in enumerate(totals):
        moment = int(moments.argmax())
        count = fewest(float(moments[moment]), types, [one[metric] for one in limits])
        if count > best[0]:
            best = (count, metric, moment)
    return best


def fewest(total: float, types: tuple[HostType, ...], sizes: list[float]) -> int:
    """The fewest hosts for one sum, largest first. sizes: of a host of each type."""
    count, rest = 0, total * (1 - _ROUNDING)
    for one, size in sorted(zip(types, sizes, strict=True), key=lambda pair: -pair[1]):
        if rest <= 0 or size <= 0:
            break
        needed = math.ceil(rest / size)
        if one.count is None or needed <= one.count:
            return count + needed
        count += one.count
        rest -= one.count * size
    return count + (rest > 0)
