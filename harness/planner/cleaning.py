"""Cleaning of samples: repeated ones, clocks that drift, and gaps.

A cleaned trace has one row for each machine and step, at multiples of the step since the epoch.
Functions work on all rows of some machines at once, sorted by machine and time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.errors import PlanError
from harness.planner.buckets import ROW, Rows
from harness.planner.sources.base import COLUMNS

CARRIED = 15 * 60_000  # ms: a gap of up to this length has the value before it
_CPU, _CPU_MAX = COLUMNS.index("cpu_cores"), COLUMNS.index("cpu_cores_max")

Integers = NDArray[np.int64]
Values = NDArray[np.float32]


@dataclass
class CleanRows:
    """Cleaned rows, and what was done.

    gap_machines, missing_machines: numbers of the machines that have gaps or missing values; a
    machine may be in them several times.
    """

    rows: Rows
    duplicates: int = 0
    merged: int = 0
    carried: int = 0
    gaps: int = 0
    missing: int = 0
    gap_machines: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    missing_machines: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))


def sort_rows(rows: Rows) -> Rows:
    """The rows by machine and time; of equal ones the order stays."""
    vm, time = rows["vm"], rows["time"]
    later = (vm[1:] > vm[:-1]) | ((vm[1:] == vm[:-1]) & (time[1:] >= time[:-1]))
    if later.all():
        return rows
    return rows[np.lexsort((time, vm))]


def usual_step(rows: Rows) -> int | None:
    """The most common ms between samples of one machine; None without two samples of one."""
    lengths = _lengths(rows)[1]
    if not len(lengths):
        return None
    kinds, counts = np.unique(np.rint(lengths / 1000).astype(np.int64), return_counts=True)
    seconds = max(1, int(kinds[counts.argmax()]))
    minutes = round(seconds / 60) * 60
    # A scheduler that is late by a second does not make a step of 301 s.
    return 1000 * (minutes if minutes and abs(minutes - seconds) <= 0.02 * minutes else seconds)


def other_steps(rows: Rows, step: int, *, averaged: bool) -> dict[int, int]:
    """Machines whose step is another one: their numbers, and their steps in ms.

    averaged: whether samples are averaged to the step, so that finer ones may be.
    """
    vm, lengths = _lengths(rows)
    near = max(1000, step // 10)
    other = lengths > step + near
    if not averaged:
        other |= lengths < step - near
    found: dict[int, int] = {}
    if not other.any():
        return found
    machines, first, counts = np.unique(vm, return_index=True, return_counts=True)
    suspects = (np.add.reduceat(other, first, dtype=np.int64) > counts / 2) & (counts > 1)
    for machine, start, count in zip(
        machines[suspects], first[suspects], counts[suspects], strict=True
    ):
        part = lengths[start : start + count]
        middle = float(np.median(part))
        # Gaps of all lengths are gaps. Another step is one that most samples share.
        if (np.abs(part - middle) <= max(1000, middle / 10)).mean() > 0.5:
            found[int(machine)] = round(middle)
    return found


def clean(rows: Rows, step: int, *, averaged: bool = False) -> CleanRows:
    """Rows of one bucket, in any order, as rows of a step in ms.

    Repeated rows are merged column by column: the last known value counts. Several rows in one
    step give their highest value, or if `averaged` their mean, with the highest CPU demand as
    cpu_cores_max. Gaps of up to CARRIED are filled with the value before them.
    """
    rows = sort_rows(rows)
    rows, duplicates = _merge_repeated(rows)
    rows["time"] //= step
    rows, merged = _merge_steps(rows, averaged=averaged)
    result = CleanRows(rows, duplicates, merged)
    longest = CARRIED // step
    result.rows = _add_rows(rows, longest, result)
    for place in range(len(COLUMNS)):
        _carry(result, place, longest)
    result.rows["time"] *= step
    return result


def _lengths(rows: Rows) -> tuple[NDArray[np.int32], Integers]:
    """Machine and ms of each interval between two samples of a machine at different times."""
    same = rows["vm"][1:] == rows["vm"][:-1]
    lengths = np.diff(rows["time"])
    used = same & (lengths > 0)
    return rows["vm"][1:][used], lengths[used]


def _starts(rows: Rows) -> Integers:
    """Where rows of a new machine or time begin."""
    new = np.ones(len(rows), np.bool_)
    new[1:] = (rows["vm"][1:] != rows["vm"][:-1]) | (rows["time"][1:] != rows["time"][:-1])
    return np.flatnonzero(new)


def _merge_repeated(rows: Rows) -> tuple[Rows, int]:
    """One row for each machine and time, and the number of repeated rows.

    Rows that have different columns are parts of one sample, not repeated.
    """
    starts = _starts(rows)
    if len(starts) == len(rows):
        return rows, 0
    merged = rows[starts]
    repeated = np.zeros(len(starts), np.int64)
    places = np.arange(len(rows))
    for place in range(len(COLUMNS)):
        values = rows["values"][:, place]
        known = ~np.isnan(values)
        last = np.maximum.reduceat(np.where(known, places, -1), starts)
        merged["values"][:, place] = np.where(last >= 0, values[last], np.nan)
        np.maximum(repeated, np.add.reduceat(known, starts, dtype=np.int64) - 1, out=repeated)
    return merged, int(repeated.sum())


def _merge_steps(rows: Rows, *, averaged: bool) -> tuple[Rows, int]:
    """One row for each machine and step, and the number of rows that this needs no more."""
    starts = _starts(rows)
    if len(starts) == len(rows):
        return rows, 0
    merged = rows[starts]
    for place in range(len(COLUMNS)):
        values = rows["values"][:, place]
        highest = np.fmax.reduceat(values, starts)
        if not averaged or place == _CPU_MAX:
            merged["values"][:, place] = highest
            continue
        known = ~np.isnan(values)
        count = np.add.reduceat(known, starts, dtype=np.int64)
        total = np.add.reduceat(np.where(known, values, 0), starts, dtype=np.float64)
        mean = np.divide(total, count, out=np.full(len(starts), np.nan), where=count > 0)
        merged["values"][:, place] = mean
        if place == _CPU:
            highest_cpu = highest
    if averaged:
        merged["values"][:, _CPU_MAX] = np.fmax(merged["values"][:, _CPU_MAX], highest_cpu)
    return merged, len(rows) - len(starts)


def _add_rows(rows: Rows, longest: int, result: CleanRows) -> Rows:
    """The rows with unknown ones in short gaps. The time is in steps. Longer gaps are counted."""
    missing = np.zeros(len(rows), np.int64)
    missing[:-1] = np.diff(rows["time"]) - 1
    missing[:-1][rows["vm"][1:] != rows["vm"][:-1]] = 0
    missing[-1:] = 0
    long = missing > longest
    result.gaps = int(long.sum())
    result.gap_machines = rows["vm"][long]
    missing[long] = 0
    if not missing.any():
        return rows
    copies = missing + 1
    ends = np.cumsum(copies)
    offset = np.arange(ends[-1]) - np.repeat(ends - copies, copies)
    filled = np.repeat(rows, copies).astype(ROW, copy=False)
    filled["time"] += offset
    filled["values"][offset > 0] = np.nan
    return filled


def _carry(result: CleanRows, place: int, longest: int) -> None:
    """Fill unknown values of a column in place, where few steps are missing."""
    rows = result.rows
    values = rows["values"][:, place]
    unknown = np.isnan(values)
    if not unknown.any() or unknown.all():
        return
    known = np.flatnonzero(~unknown)
    vm, time = rows["vm"][known], rows["time"][known]
    # Between two known values of a machine, at neighbouring places in `known`.
    missing = np.diff(time) - 1
    between = np.diff(known) - 1  # rows, which are fewer if there is a gap
    inside = (between > 0) & (vm[1:] == vm[:-1])
    short = inside & (missing <= longest)
    counts = np.where(short, between, 0)
    source = np.repeat(known[:-1], counts)
    ends = np.cumsum(counts)
    target = source + 1 + np.arange(len(source)) - np.repeat(ends - counts, counts)
    values[target] = values[source]
    result.carried += len(target)
    long = inside & (missing > longest)
    result.missing += int(between[long].sum())
    result.missing_machines = np.append(result.missing_machines, vm[1:][long])


def no_step() -> PlanError:
    return PlanError(
        "no machine has samples of two times, so the step between samples is unknown",
        hint="import a longer trace, or name the step with --step=300",
    )
