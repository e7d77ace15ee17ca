"""Reduces all samples of a trace to the demand that a plan is made from.

A plan is packed on slots; see slots.py. The sums over all machines are exact for every sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from harness.errors import PlanError
from harness.planner import slots
from harness.planner.data_folder import DataFolder
from harness.planner.plan import Assumption
from harness.planner.planned_machines import PlannedMachines
from harness.planner.samples import Block, Grid, filled, read_blocks
from harness.planner.slots import Slots
from harness.planner.trace import METRICS

CPU, MEMORY, IOPS, NETWORK = range(len(METRICS))
_MAX_SAMPLES = 4_000_000  # machines times samples: above it, slots are coarser
_MAX_SLOTS = 20_000_000  # machines times slots
_HEAD = 1000  # machines that choose the slots for all


@dataclass(frozen=True)
class Window:
    """A part of a trace: the moments from `first` to before `last`.

    packed: whether machines are packed on its demand. If not, all of it is one slot.
    """

    first: int
    last: int
    packed: bool = True


@dataclass(frozen=True)
class Profile:
    """The demand of machines, without overhead, growth and burst. CPU is in cores of rating 1.

    demand: (machines, METRICS, slots). Memory is the machine's highest at all times, since guests
    seldom return memory. totals: (METRICS, moments), the exact sums over machines. bursty: CPU
    demand of each moment, of the machines in `means_only`, whose sources hold means alone.
    constant: (machines, METRICS), the demand that is assumed at all times, NaN where it was
    measured. mean, peak: (machines, METRICS) of what was measured, else NaN. cpu_p95: cores.
    planned: for each metric whether any machine has it.
    """

    machines: PlannedMachines
    grid: Grid
    slots: Slots
    demand: NDArray[np.float32]
    totals: NDArray[np.float64]
    bursty: NDArray[np.float64]
    means_only: NDArray[np.bool_]
    constant: NDArray[np.float32]
    mean: NDArray[np.float32]
    peak: NDArray[np.float32]
    cpu_p95: NDArray[np.float32]
    planned: NDArray[np.bool_]
    assumptions: tuple[Assumption, ...]

    @property
    def without_trace(self) -> tuple[str, ...]:
        """Machines that are planned by their allocation."""
        missing = np.flatnonzero(~np.isnan(self.constant[:, CPU]))
        return tuple(self.machines.names[index] for index in missing)


def reduce_trace(
    folder: DataFolder,
    machines: PlannedMachines,
    windows: Sequence[Window],
    weights: Sequence[float] = (1.0,) * len(METRICS),
    *,
    vcpus_per_core: float = 1.0,
) -> list[Profile]:
    """The profile of each window, in one pass over the samples.

    weights: of each metric, what one unit of it needs of a host. vcpus_per_core: of machines
    without a trace. Raises PlanError.
    """
    grid = Grid.of(folder.description)
    blocks = read_blocks(folder, machines.names, grid)
    head = _head(blocks)
    reductions = [
        _Reduction(machines, grid.part(window.first, window.last), window, head, weights)
        for window in windows
    ]
    for block in chain(head, blocks):
        for reduction in reductions:
            reduction.add(block)
    return [reduction.profile(vcpus_per_core) for reduction in reductions]


def _head(blocks: Iterator[Block]) -> list[Block]:
    """The first blocks, with some of the machines."""
    head: list[Block] = []
    for block in blocks:
        head.append(block)
        if sum(len(one.places) for one in head) >= _HEAD:
            break
    return head


def _choose_slots(
    grid: Grid, machines: int, window: Window, head: Sequence[Block], weights: Sequence[float]
) -> Slots:
    if not window.packed:
        return slots.whole(grid)
    if machines * grid.count <= _MAX_SAMPLES:
        return slots.samples(grid)
    most = _MAX_SLOTS // machines
    base = slots.hours(grid, most // 2)
    coarse = np.zeros((len(METRICS), base.count))
    fine = np.zeros((len(METRICS), grid.count))
    for block in head:
        part = block.part(window.first, window.last)
        for metric, values in ((CPU, part.cpu_max), (IOPS, part.iops), (NETWORK, part.network)):
            known = np.nan_to_num(filled(values, grid))
            fine[metric] += known.sum(axis=0, dtype=np.float64)
            coarse[metric] += base.maxima(known).sum(axis=0, dtype=np.float64)
    scale = np.asarray(weights)[:, None]
    return slots.refined(base, (coarse * scale).max(axis=0), (fine * scale).max(axis=0), most)


class _Reduction:
    """The reduction of one window. grid: of the window. head: blocks that choose its slots."""

    def __init__(
        self,
        machines: PlannedMachines,
        grid: Grid,
        window: Window,
        head: Sequence[Block],
        weights: Sequence[float],
    ) -> None:
        self._machines = machines
        self._window = window
        self._grid = grid
        count = len(machines)
        self._slots = _choose_slots(grid, count, window, head, weights)
        self._demand = np.zeros((count, len(METRICS), self._slots.count), np.float32)
        self._totals = np.zeros((len(METRICS), grid.count))
        self._bursty = np.zeros(grid.count)
        self._means_only = np.zeros(count, np.bool_)
        statistics = np.full((3, count, len(METRICS)), np.nan, np.float32)
        self._mean, self._peak, self._p95 = statistics

    def add(self, block: Block) -> None:
        block = block.part(self._window.first, self._window.last)
        rating = self._machines.rating[block.places, None].astype(np.float32)
        means_only = ~block.has_max
        self._measure(block, CPU, block.cpu * rating)
        cpu = self._add_metric(block, CPU, block.cpu_max * rating)
        self._bursty += cpu[means_only].sum(axis=0, dtype=np.float64)
        self._means_only[block.places] = means_only
        for metric, values in ((IOPS, block.iops), (NETWORK, block.network)):
            self._measure(block, metric, values)
            self._add_metric(block, metric, values)
        self._measure(block, MEMORY, block.memory)

    def _measure(self, block: Block, metric: int, values: NDArray[np.float32]) -> None:
        """Statistics of the measured values alone."""
        known = ~np.isnan(values).all(axis=1)
        places, rows = block.places[known], values[known]
        if not len(rows):
            return
        self._peak[places, metric] = np.nanmax(rows, axis=1)
        self._mean[places, metric] = np.nanmean(rows, axis=1, dtype=np.float64)
        if metric == CPU:
            self._p95[places, metric] = _percentile(rows, 95)

    def _add_metric(
        self, block: Block, metric: int, values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Add the demand of one metric; return it at all moments, 0 where nobody measured it."""
        values = np.nan_to_num(filled(values, self._grid))
        self._demand[block.places, metric] = self._slots.maxima(values)
        self._totals[metric] += values.sum(axis=0, dtype=np.float64)
        return values

    def profile(self, vcpus_per_core: float) -> Profile:
        constant, assumptions = _assumed_demand(self._machines, self._peak, vcpus_per_core)
        assumed = np.nan_to_num(constant)
        self._demand += assumed[:, :, None]
        self._totals += assumed.sum(axis=0, dtype=np.float64)[:, None]
        memory = np.where(np.isnan(constant[:, MEMORY]), self._peak[:, MEMORY], 0)
        self._demand[:, MEMORY] += memory[:, None]
        self._totals[MEMORY] += memory.sum(dtype=np.float64)
        return Profile(
            machines=self._machines,
            grid=self._grid,
            slots=self._slots,
            demand=self._demand,
            totals=self._totals,
            bursty=self._bursty,
            means_only=self._means_only & np.isnan(constant[:, CPU]),
            constant=constant,
            mean=self._mean,
            peak=self._peak,
            cpu_p95=self._p95[:, CPU],
            planned=np.array([(self._demand[:, one] > 0).any() for one in range(len(METRICS))]),
            assumptions=assumptions,
        )


def _percentile(rows: NDArray[np.float32], percent: float) -> NDArray[np.float32]:
    """Of each row, without NaN."""
    incomplete = np.isnan(rows).any(axis=1)
    result = np.empty(len(rows), np.float32)
    result[~incomplete] = np.percentile(rows[~incomplete], percent, axis=1)
    for row in np.flatnonzero(incomplete):
        values = rows[row]
        result[row] = np.percentile(values[~np.isnan(values)], percent)
    return result


def _assumed_demand(
    machines: PlannedMachines, peak: NDArray[np.float32], vcpus_per_core: float
) -> tuple[NDArray[np.float32], tuple[Assumption, ...]]:
    """The demand of machines without samples of a metric, (machines, METRICS); else NaN.

    CPU and memory are what is allocated. For others, and where memory is not known, a machine
    counts as the median of the others by vCPU. A metric that no machine has is not planned.
    """
    assumptions = []
    result = np.full((len(machines), len(METRICS)), np.nan, np.float32)
    missing = np.isnan(peak)
    unknown = missing[:, CPU]
    result[unknown, CPU] = (machines.vcpus * machines.rating)[unknown] / vcpus_per_core
    if unknown.any():
        text = f"{1 / vcpus_per_core:.3g} cores for a vCPU, of {int(unknown.sum())} machines"
        assumptions.append(Assumption("CPU of machines without a trace", text, "allocation"))
    allocated = missing[:, MEMORY] & ~np.isnan(machines.memory_mib)
    result[allocated, MEMORY] = machines.memory_mib[allocated]
    if allocated.any():
        text = f"what is allocated, of {int(allocated.sum())} machines"
        assumptions.append(
            Assumption("memory of machines without samples of it", text, "allocation")
        )
    for metric in (MEMORY, IOPS, NETWORK):
        known = np.fmax(peak[:, metric], result[:, metric])
        unknown = np.isnan(known)
        if not unknown.any():
            continue
        if unknown.all():
            if metric == MEMORY:
                raise PlanError(
                    "no machine has a size of memory",
                    hint="import an inventory with the column memory_mib",
                )
            result[:, metric] = 0
            text = "not planned: no source has it"
        else:
            each = float(np.median((known / machines.vcpus)[~unknown]))
            result[unknown, metric] = each * machines.vcpus[unknown]
            text = f"{each:.3g} for a vCPU, of {int(unknown.sum())} machines"
        source = "assumed: the median of the others"
        name = f"{METRICS[metric]} that nobody measured"
        assumptions.append(Assumption(name, text, "import" if unknown.all() else source))
    return result, tuple(assumptions)
