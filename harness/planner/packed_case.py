"""Packs cases: each case becomes hosts with machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.planner.cases import Case, viewed
from harness.planner.constraints import ResolvedConstraints
from harness.planner.fleet import FleetLoad
from harness.planner.hosts_file import HostType
from harness.planner.model import host_costs, make_problem
from harness.planner.problem import PackedHost, Packing, Problem
from harness.planner.reduction import Profile, Window
from harness.planner.verification import Assignment, HostLoads

Stop = Callable[[], bool]


class Pack(Protocol):
    """A solver, such as harness.planner.packing.solve."""

    def __call__(self, problem: Problem, *, seconds: float, seed: int, stop: Stop) -> Packing: ...


@dataclass(frozen=True)
class PackedCase:
    """A case with its packing."""

    case: Case
    profile: Profile
    packing: Packing

    @property
    def hosts(self) -> tuple[PackedHost, ...]:
        return self.packing.hosts

    @property
    def counts_hosts(self) -> bool:
        """Whether the solver minimized the number of hosts, not their cost."""
        costs, _ = host_costs(self.case.types, self.case.site)
        return all(one == 1 for one in costs)

    @property
    def types(self) -> tuple[HostType, ...]:
        """Of each host."""
        return tuple(self.case.types[one.shape] for one in self.hosts)

    @property
    def host_of(self) -> NDArray[np.int64]:
        """For each machine the index of its host."""
        result = np.full(len(self.profile.machines), -1, np.int64)
        for index, one in enumerate(self.hosts):
            result[list(one.machines)] = index
        return result

    def assignment(self, window: Window, *, detailed: bool = False) -> Assignment:
        return Assignment(self.host_of, self.types, self.case.model, self.profile, window, detailed)

    def fleet_load(self, loads: HostLoads, constraints: ResolvedConstraints) -> FleetLoad:
        """loads: of the same packing, maybe of a case with other power curves."""
        utilization = loads.utilization()
        host_of = self.host_of
        licensed = {
            name: len({int(host_of[member]) for member in group})
            for name, group in zip(
                constraints.licences, constraints.constraints.licensed, strict=True
            )
        }
        return FleetLoad(
            types=self.types,
            racks=[one.rack for one in self.hosts],
            watts=float(replace(loads, types=self.types).watts(utilization).sum()),
            utilization=float(utilization.mean(dtype=np.float64)) if len(self.hosts) else 0.0,
            licensed_hosts=licensed,
        )


@dataclass
class Packer:
    """Packs cases. Cases that differ only in prices share one packing."""

    pack: Pack
    constraints: ResolvedConstraints
    seed: int
    stop: Stop
    _known: dict[object, Packing] = field(default_factory=dict)

    def packed(self, case: Case, profile: Profile, seconds: float) -> PackedCase:
        """Raises PlanError when the machines do not fit on hosts of these types."""
        key = _key(case, profile)
        if key not in self._known:
            problem = self.problem(case, profile)
            self._known[key] = self.pack(problem, seconds=seconds, seed=self.seed, stop=self.stop)
        return PackedCase(case, profile, self._known[key])

    def problem(self, case: Case, profile: Profile) -> Problem:
        """What the solver gets for a case."""
        costs, _ = host_costs(case.types, case.site)
        constraints = self.constraints.constraints
        return make_problem(viewed(profile, case), case.model, case.types, costs, constraints)


def _key(case: Case, profile: Profile) -> object:
    return case.model, tuple(one.name for one in case.types), case.view, id(profile)
