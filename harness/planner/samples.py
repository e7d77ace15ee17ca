"""Reads the samples of a data folder bucket by bucket, as arrays of machines and moments.

Moments form a grid with the trace's step. A moment without a sample is NaN in a block. It is never
zero: `filled` gives it the demand of the machine in the same hour of other weeks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.errors import PlanError
from harness.planner.data_folder import DataFolder
from harness.planner.trace import Import

HOURS = 168  # of a week
MAX_CELLS = 2_000_000  # moments of a trace: 19 years of 5 minutes
CARRIED = 900  # s: the longest gap that the sample before it fills
_HOUR = 3600
_MONDAY = 4 * 86_400  # 1970-01-05 0:00 UTC

# With the highest value of the interval where a source has it, else with its mean.
_SQL = """
SELECT place, CAST(floor((epoch_ms(time) / 1000.0 - $start) / $step) AS BIGINT) AS cell,
       cpu_cores AS cpu, coalesce(cpu_cores_max, cpu_cores) AS cpu_max,
       cpu_cores_max IS NOT NULL AS has_max, memory_mib AS memory,
       CASE WHEN read_iops IS NOT NULL OR write_iops IS NOT NULL
            THEN coalesce(read_iops, 0) + coalesce(write_iops, 0) END AS iops,
       net_mib_s AS network
FROM read_parquet($file) JOIN planned USING (vm)
"""


@dataclass(frozen=True)
class Grid:
    """The moments of a trace. start: s since the epoch. step: s. count: of moments."""

    start: float
    step: float
    count: int

    @classmethod
    def of(cls, description: Import) -> Grid:
        """A week of hours for data without samples. Raises PlanError for impossible times."""
        if not description.samples:
            return cls(_MONDAY, _HOUR, HOURS)
        seconds, step = description.end - description.start, description.step
        if not (step > 0 and 0 < seconds <= MAX_CELLS * step):
            raise PlanError(
                f"the data has a step of {step:g} s in {seconds:g} s",
                hint="import the sources again",
            )
        return cls(description.start, step, max(1, round(seconds / step)))

    @property
    def days(self) -> float:
        return self.count * self.step / 86_400

    @property
    def hour(self) -> NDArray[np.int64]:
        """For each moment the number of its hour, from 0."""
        times = self.start + self.step * np.arange(self.count)
        hours = np.floor(times / _HOUR).astype(np.int64)
        first: np.int64 = hours[0]
        return hours - first

    @property
    def hour_of_week(self) -> NDArray[np.int64]:
        """For each moment its hour of the week, from Monday 0:00 UTC."""
        times = self.start + self.step * np.arange(self.count)
        return np.floor((times - _MONDAY) / _HOUR).astype(np.int64) % HOURS

    def part(self, first: int, last: int) -> Grid:
        """The moments from `first` to before `last`."""
        return Grid(self.start + first * self.step, self.step, last - first)


@dataclass(frozen=True)
class Block:
    """The samples of some machines: arrays of (machines, moments), NaN without a sample.

    places: of the machines, in the order that the reader got. cpu: mean, in cores. cpu_max: the
    highest of the interval where a source has it, else cpu. has_max: for each machine.
    """

    places: NDArray[np.int64]
    cpu: NDArray[np.float32]
    cpu_max: NDArray[np.float32]
    has_max: NDArray[np.bool_]
    memory: NDArray[np.float32]
    iops: NDArray[np.float32]
    network: NDArray[np.float32]

    def part(self, first: int, last: int) -> Block:
        """The moments from `first` to before `last`."""
        names = ("cpu", "cpu_max", "memory", "iops", "network")
        parts = {name: getattr(self, name)[:, first:last] for name in names}
        return Block(places=self.places, has_max=self.has_max, **parts)


def read_blocks(folder: DataFolder, machines: Sequence[str], grid: Grid) -> Iterator[Block]:
    """All samples of these machines. A block has the machines of one bucket.

    Raises PlanError for a file that `plan import` has not written.
    """
    planned = pa.table({"vm": list(machines), "place": np.arange(len(machines))})
    with contextlib.closing(
        duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})
    ) as database:
        database.register("planned", planned)
        for path in folder.trace_files():
            parameters = {"start": grid.start, "step": grid.step, "file": str(path)}
            try:
                columns = database.execute(_SQL, parameters).fetchnumpy()
            except duckdb.Error as error:
                raise PlanError(
                    f"{path} has no samples of a trace: {error}", hint="import the sources again"
                ) from error
            if len(columns["cell"]):
                yield _block(columns, grid)


def _block(columns: Mapping[str, Any], grid: Grid) -> Block:
    """columns: of _SQL, as numpy arrays; nulls are masked."""
    cells = np.asarray(columns["cell"])
    inside = (cells >= 0) & (cells < grid.count)
    places, rows = np.unique(np.asarray(columns["place"])[inside], return_inverse=True)
    cells = cells[inside]

    def matrix(name: str) -> NDArray[np.float32]:
        values = np.ma.filled(np.ma.asarray(columns[name], np.float32), np.nan)[inside]
        result = np.full((len(places), grid.count), np.nan, np.float32)
        known = ~np.isnan(values)
        if not ((values[known] >= 0) & (values[known] < np.inf)).all():
            raise PlanError(
                f"the trace has negative or infinite values of {name}",
                hint="import the sources again",
            )
        row, cell, value = rows[known], cells[known], values[known]
        result[row, cell] = value
        # of several samples in one step the highest counts
        higher = value > result[row, cell]
        np.maximum.at(result, (row[higher], cell[higher]), value[higher])
        return result

    has_max = np.zeros(len(places), bool)
    has_max[rows[np.asarray(columns["has_max"], bool)[inside]]] = True
    return Block(
        places=places.astype(np.int64),
        has_max=has_max,
        **{name: matrix(name) for name in ("cpu", "cpu_max", "memory", "iops", "network")},
    )


def hourly_maxima(values: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """The highest of each hour, without NaN: (machines, hours of the trace)."""
    hour = grid.hour
    hours = np.arange(hour[-1] + 1)
    starts = np.searchsorted(hour, hours)
    result = np.full((len(values), len(hours)), np.nan, np.float32)
    present = hour[np.minimum(starts, len(hour) - 1)] == hours  # a step may exceed an hour
    if len(values):
        result[:, present] = np.fmax.reduceat(values, starts[present], axis=1)
    return result


def weekly_maxima(values: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """The highest in each hour of the week, without NaN: (machines, HOURS)."""
    by_hour = hourly_maxima(values, grid)
    first = int(grid.hour_of_week[0])
    week = (first + np.arange(by_hour.shape[1])) % HOURS
    result = np.full((len(values), HOURS), np.nan, np.float32)
    for hour in range(HOURS):
        if len(columns := np.flatnonzero(week == hour)):
            result[:, hour] = np.fmax.reduce(by_hour[:, columns], axis=1)
    return result


def filled(values: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """The demand at all moments, also at those without a sample.

    A gap of up to CARRIED has the value before it. A longer one has the machine's highest value in
    this hour of the week, or its highest of all. A machine without any value stays NaN.
    """
    incomplete = np.flatnonzero(np.isnan(values).any(axis=1) & ~np.isnan(values).all(axis=1))
    if not len(incomplete):
        return values
    result = values.copy()
    rows = _carried(values[incomplete], int(CARRIED // grid.step))
    by_week = weekly_maxima(rows, grid)
    highest = np.nanmax(rows, axis=1, keepdims=True)
    by_week = np.where(np.isnan(by_week), highest, by_week)
    result[incomplete] = np.where(np.isnan(rows), by_week[:, grid.hour_of_week], rows)
    return result


def _carried(rows: NDArray[np.float32], limit: int) -> NDArray[np.float32]:
    """Gaps of up to `limit` moments between samples get the value before them."""
    count = rows.shape[1]
    moment = np.arange(count)
    known = ~np.isnan(rows)
    last = np.maximum.accumulate(np.where(known, moment, -1), axis=1)
    following = np.minimum.accumulate(np.where(known, moment, count)[:, ::-1], axis=1)[:, ::-1]
    short = ~known & (last >= 0) & (following < count) & (following - last - 1 <= limit)
    taken = np.take_along_axis(rows, np.maximum(last, 0), axis=1)
    return np.where(short, taken, rows)
