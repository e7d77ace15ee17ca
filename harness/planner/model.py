"""The model of hosts and machines: what a host carries at each moment, and what it may carry.

base + sum(guest + demand * cpu) <= utilization * cores * rating
sum(memory + overhead)           <= memory - reserve
sum(iops), sum(network)          <= share * capacity
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.planner.hosts_file import HostType, Site
from harness.planner.overhead import Overhead
from harness.planner.plan import Assumption
from harness.planner.problem import Constraints, Problem, Shape
from harness.planner.reduction import CPU, MEMORY, Profile

FAILOVER = 0.95  # of the capacity, while other hosts have failed
DEVICES = 0.7  # of the IOPS and the network of a host
MODEL_ASSUMPTIONS = (
    Assumption("target share of IOPS and network", f"{DEVICES:.0%}", "assumed"),
    Assumption("target share of CPU, IOPS, network after a failure", f"{FAILOVER:.0%}", "assumed"),
)


@dataclass(frozen=True)
class Model:
    """growth: of all demand. burst: of CPU demand whose source holds means alone."""

    overhead: Overhead
    growth: float = 1.0
    burst: float = 1.0
    spare: int = 0
    spare_racks: int = 0

    def demand(self, profile: Profile) -> NDArray[np.float32]:
        """(machines, METRICS, slots) of the machines, with their overhead."""
        demand: NDArray[np.float32] = profile.demand * np.float32(self.growth)
        burst = np.where(profile.means_only, self.burst, 1.0) * self.overhead.demand
        demand[:, CPU] *= burst[:, None].astype(np.float32)
        demand[:, CPU] += np.float32(self.overhead.guest)
        demand[:, MEMORY] += np.float32(self.overhead.memory_mib)
        return demand

    def totals(self, profile: Profile) -> NDArray[np.float64]:
        """(METRICS, moments): the exact sums over machines, with their overhead."""
        totals = profile.totals.copy()
        totals[CPU] += (self.burst - 1) * profile.bursty
        totals *= self.growth
        count = len(profile.machines)
        totals[CPU] = self.overhead.demand * totals[CPU] + self.overhead.guest * count
        totals[MEMORY] += self.overhead.memory_mib * count
        return totals

    def usable(self, host: HostType) -> NDArray[np.float64]:
        """Of each metric, what machines may use together."""
        return self._share(host, min(self.overhead.utilization, FAILOVER), DEVICES)

    def failover(self, host: HostType) -> NDArray[np.float64]:
        """The same while other hosts have failed."""
        return self._share(host, FAILOVER, FAILOVER)

    def _share(self, host: HostType, cpu: float, devices: float) -> NDArray[np.float64]:
        usable: NDArray[np.float64] = host.capacity * np.array([cpu, 1.0, devices, devices])
        usable[CPU] -= self.overhead.base
        return usable


def make_problem(
    profile: Profile,
    model: Model,
    types: Sequence[HostType],
    costs: Sequence[float],
    constraints: Constraints,
) -> Problem:
    """costs: of each type."""
    return Problem(
        machines=profile.machines.names,
        demand=model.demand(profile),
        shapes=tuple(
            _shape(profile, model, one, cost) for one, cost in zip(types, costs, strict=True)
        ),
        constraints=constraints,
        spare=model.spare,
        spare_racks=model.spare_racks,
    )


def _shape(profile: Profile, model: Model, host: HostType, cost: float) -> Shape:
    usable, failover = (
        np.where(profile.planned, of(host), np.inf).astype(np.float32)
        for of in (model.usable, model.failover)
    )
    return Shape(
        name=host.name,
        usable=usable,
        failover=failover,
        count=host.count,
        cost=cost,
        per_rack=host.per_rack,
        racks=host.racks,
        names=host.names,
    )


def host_costs(types: Sequence[HostType], site: Site) -> tuple[list[float], Assumption | None]:
    """What the solver minimizes: the cost of a host for a year, or 1 where prices are missing.

    A host that exists costs no hardware. Energy is that at half load.
    """
    if len(types) < 2:
        return [1.0] * len(types), None
    if site.energy_price is None or any(one.price is None and not one.exists for one in types):
        return [1.0] * len(types), Assumption(
            "choice between types of hosts", "the fewest hosts", "not all prices are given"
        )
    costs = []
    for one in types:
        hardware = 0.0 if one.exists else (one.price or 0.0) / one.life_years
        energy = float(one.curve.at(np.array(0.5))) * 8.76 * site.pue * site.energy_price
        space = one.rack_units * (site.rack_unit_price or 0.0)
        costs.append(max(hardware + energy + space + (one.licence or 0.0), 1e-9))
    return costs, Assumption("choice between types of hosts", "the least cost of a year", "given")
