"""Checks packings on all samples: what each host carries at every moment.

The samples are read once for all packings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from harness.planner.data_folder import DataFolder
from harness.planner.hosts_file import HostType
from harness.planner.model import Model
from harness.planner.reduction import CPU, IOPS, MEMORY, NETWORK, Profile, Window
from harness.planner.samples import Block, Grid, filled, read_blocks, weekly_maxima
from harness.planner.trace import METRICS

TOLERANCE = 1e-5  # of a capacity: sums of float32 have rounding errors


@dataclass(frozen=True)
class Assignment:
    """Which machine runs on which host, in a part of the trace.

    host_of: for each machine the index of its host, -1 for none. types: of each host. profile: of
    the same part. detailed: also verify all metrics, not only the CPU's mean. resident: MiB that
    each machine has used before, NaN where nobody measured it; None for its highest of this part.
    """

    host_of: NDArray[np.int64]
    types: tuple[HostType, ...]
    model: Model
    profile: Profile
    window: Window
    detailed: bool = False
    resident: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class HostLoads:
    """What the hosts of an assignment carry.

    busy: (hosts, moments), the mean CPU in cores of rating 1, with all overhead. demand: (METRICS,
    hosts, moments), as planned; without metrics unless detailed.
    """

    types: tuple[HostType, ...]
    model: Model
    grid: Grid
    planned: NDArray[np.bool_]
    busy: NDArray[np.float32]
    demand: NDArray[np.float32]

    def utilization(self) -> NDArray[np.float32]:
        """(hosts, moments), from 0 to 1."""
        speed = np.array([one.speed for one in self.types], np.float32)
        share: NDArray[np.float32] = np.clip(self.busy / speed[:, None], 0, 1)
        return share

    def watts(self, utilization: NDArray[np.float32]) -> NDArray[np.float64]:
        """The mean of each host over all moments, without PUE."""
        return np.array(
            [one.curve.at(row).mean() for one, row in zip(self.types, utilization, strict=True)]
        )

    def peaks(self) -> NDArray[np.float64]:
        """(hosts, METRICS): the highest share of the usable capacity; 0 where it is not planned."""
        highest = self.demand.max(axis=2).T.astype(np.float64)
        return np.where(self.planned, highest / self._usable(), 0.0)

    def hours(self) -> NDArray[np.float64]:
        """(hosts, HOURS): of CPU, the highest share of what is usable; NaN without a moment."""
        highest = weekly_maxima(self.demand[CPU], self.grid)
        return np.asarray(highest / self._usable()[:, [CPU]], np.float64)

    def over_target(self) -> NDArray[np.bool_]:
        """(hosts, moments) with more than the usable capacity of any metric."""
        return self._above(self._usable())

    def over_capacity(self) -> NDArray[np.bool_]:
        """(hosts, moments) with more than the real capacity of any metric."""
        return self._above(self._capacity())

    def worst(self) -> float:
        """The highest share of the real capacity."""
        highest = self.demand.max(axis=2).T.astype(np.float64)
        return float(np.where(self.planned, highest / self._capacity(), 0.0).max())

    def _usable(self) -> NDArray[np.float64]:
        return np.array([self.model.usable(one) for one in self.types])

    def _capacity(self) -> NDArray[np.float64]:
        capacity = np.array([one.capacity for one in self.types])
        capacity[:, CPU] -= self.model.overhead.base
        return capacity

    def _above(self, limits: NDArray[np.float64]) -> NDArray[np.bool_]:
        result = np.zeros(self.demand[CPU].shape, np.bool_)
        for metric in np.flatnonzero(self.planned):
            result |= self.demand[metric] > limits[:, [metric]] * (1 + TOLERANCE)
        return result


class Observer(Protocol):
    """Sees all samples of the trace."""

    def add(self, block: Block) -> None: ...


def verify(
    folder: DataFolder, assignments: Sequence[Assignment], observers: Sequence[Observer] = ()
) -> list[HostLoads]:
    """The loads of all assignments, in one pass over the samples. All have the same machines."""
    if not assignments:
        return []
    grid = Grid.of(folder.description)
    sums = [_Sums(one) for one in assignments]
    for block in read_blocks(folder, assignments[0].profile.machines.names, grid):
        for observer in observers:
            observer.add(block)
        parts: dict[tuple[int, Window], _Part] = {}
        for one in sums:
            key = (id(one.assignment.profile), one.assignment.window)
            if key not in parts:
                parts[key] = _Part(block, one.assignment)
            one.add(parts[key])
    return [one.loads() for one in sums]


@dataclass
class _Part:
    """A block's samples of one window, which all assignments of this window share."""

    block: Block
    assignment: Assignment
    _cached: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        window = self.assignment.window
        self.block = self.block.part(window.first, window.last)
        self.profile = self.assignment.profile
        self.grid = self.profile.grid
        self.places = self.block.places
        self.rating = self.profile.machines.rating[self.places, None].astype(np.float32)

    def mean(self) -> NDArray[np.float32]:
        """The CPU's mean; at moments without a sample the machine's own mean."""
        if "mean" not in self._cached:
            known = self.profile.mean[self.places, CPU, None]
            cpu = self.block.cpu * self.rating
            values = np.where(np.isnan(cpu), known, cpu)
            self._cached["mean"] = np.nan_to_num(values, copy=False)
        return self._cached["mean"]

    def demand(self, metric: int) -> NDArray[np.float32]:
        """As planned, without burst; 0 for machines without any sample."""
        name = METRICS[metric]
        if name not in self._cached:
            if metric == CPU:
                values = self.block.cpu_max * self.rating
            else:
                values = self.block.iops if metric == IOPS else self.block.network
            self._cached[name] = np.nan_to_num(filled(values, self.grid))
        return self._cached[name]


class _Sums:
    """Sums over the machines of each host."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self._grid = assignment.profile.grid
        shape = (len(assignment.types), self._grid.count)
        self._busy = np.zeros(shape, np.float32)
        count = len(METRICS) if assignment.detailed else 0
        self._demand = np.zeros((count, *shape), np.float32)

    def add(self, part: _Part) -> None:
        one, profile = self.assignment, self.assignment.profile
        matrix = self._matrix(part.places)
        self._busy += matrix @ part.mean()
        if not one.detailed:
            return
        burst = np.where(profile.means_only[part.places], one.model.burst, 1.0)
        factors = burst[:, None].astype(np.float32)
        self._demand[CPU] += matrix @ (part.demand(CPU) * factors)
        for metric in (IOPS, NETWORK):
            self._demand[metric] += matrix @ part.demand(metric)
        before = profile.peak[:, MEMORY] if one.resident is None else one.resident
        # the others have an assumed size
        before = np.where(np.isnan(profile.constant[:, MEMORY]), before, np.nan)
        memory = np.fmax(part.block.memory, before[part.places, None].astype(np.float32))
        # guests seldom return memory
        self._demand[MEMORY] += matrix @ np.nan_to_num(np.fmax.accumulate(memory, axis=1))

    def loads(self) -> HostLoads:
        one, profile = self.assignment, self.assignment.profile
        everyone = np.arange(len(one.host_of))
        matrix = self._matrix(everyone)
        count = (matrix @ np.ones(len(everyone), np.float32))[:, None]
        overhead, growth = one.model.overhead, np.float32(one.model.growth)
        busy = self._busy + (matrix @ assumed_mean(profile))[:, None]
        busy *= growth * np.float32(overhead.demand)
        busy += np.float32(overhead.guest) * count + np.float32(overhead.base)
        if one.detailed:
            self._demand += (matrix @ np.nan_to_num(profile.constant)).T[:, :, None]
            self._demand *= growth
            self._demand[CPU] *= np.float32(overhead.demand)
            self._demand[CPU] += np.float32(overhead.guest) * count
            self._demand[MEMORY] += np.float32(overhead.memory_mib) * count
        return HostLoads(one.types, one.model, self._grid, profile.planned, busy, self._demand)

    def _matrix(self, places: NDArray[np.int64]) -> csr_array:
        """(hosts, these machines), with 1 where a machine runs."""
        hosts = self.assignment.host_of[places]
        (columns,) = np.nonzero(hosts >= 0)
        ones = np.ones(len(columns), np.float32)
        shape = (len(self.assignment.types), len(places))
        return csr_array((ones, (hosts[columns], columns)), shape=shape)


def assumed_mean(profile: Profile) -> NDArray[np.float32]:
    """The mean CPU of machines without a trace: as busy as the others, else all that is allocated.

    0 for machines that have a trace.
    """
    measured = ~np.isnan(profile.mean[:, CPU])
    allocated = (profile.machines.vcpus * profile.machines.rating).astype(np.float32)
    share = 1.0
    if measured.any():
        share = float(profile.mean[measured, CPU].sum() / allocated[measured].sum())
    assumed = np.nan_to_num(profile.constant[:, CPU])
    return np.where(measured, 0, np.minimum(assumed, share * allocated)).astype(np.float32)
