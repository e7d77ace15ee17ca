"""The Parquet pair of OpenDC, as its bitbrains-small: a trace and the machines' sizes.

A row of the trace is an interval that ends at `timestamp` and lasts `duration` ms, with the CPU
demand in MHz. OpenDC's converter joins samples of equal demand into one row while no sample is
missing, so a long row is data, not a gap. A gap is where a row does not begin at the end of the row
before. Here, a row becomes samples of one step again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harness.planner.inventory import Machine
from harness.planner.sources.base import ImportContext, Samples
from harness.planner.sources.source_file import SourceFile
from harness.planner.sources.tables import machine_codes, numbers, parquet_batches, times
from harness.planner.sources.times import TimeFormat

_TRACE = ("id", "timestamp", "duration", "cpu_usage")
_META = ("id", "cpu_count", "cpu_capacity", "mem_capacity")
_MAX_STEPS = 1 << 20  # of one row: ten years of five minutes
_CHUNK = 1 << 22  # samples that one batch becomes at most, about
_LARGEST_MIB = 1e5  # a median above this is in KiB


class OpenDC:
    name = "opendc"

    def recognizes(self, file: SourceFile) -> bool:
        return file.kind == "parquet" and (set(_TRACE) <= set(file.columns) or _is_meta(file))

    def read_inventory(self, files: Sequence[SourceFile], context: ImportContext) -> None:
        for file in filter(_is_meta, files):
            rows = [row for batch in parquet_batches(file, _META) for row in batch.to_pylist()]
            context.count(file, len(rows))
            unit = _memory_unit(file, rows, context)
            for row in rows:
                context.inventory.add_machine(
                    Machine(
                        str(row["id"]),
                        vcpus=float(row["cpu_count"] or 0) or None,
                        memory_mib=float(row["mem_capacity"] or 0) / unit or None,
                    )
                )

    def read_samples(
        self, files: Sequence[SourceFile], context: ImportContext
    ) -> Iterator[Samples]:
        speeds = _core_speeds([file for file in files if _is_meta(file)])
        for file in files:
            if not _is_meta(file):
                yield from _read(file, speeds, context)


def _is_meta(file: SourceFile) -> bool:
    return file.kind == "parquet" and set(_META) <= set(file.columns)


def _memory_unit(
    file: SourceFile, rows: Sequence[dict[str, float]], context: ImportContext
) -> float:
    """How many of the file's units are a MiB: versions of OpenDC differ."""
    kib = bool(rows) and float(np.median([row["mem_capacity"] or 0 for row in rows])) > _LARGEST_MIB
    context.detect(file, f"mem_capacity is in {'KiB' if kib else 'MiB'}.")
    return 1024.0 if kib else 1.0


def _core_speeds(files: Sequence[SourceFile]) -> dict[str, float]:
    """MHz of one vCPU by machine."""
    speeds = {}
    for file in files:
        for batch in parquet_batches(file, _META):
            for row in batch.to_pylist():
                if row["cpu_count"] and row["cpu_capacity"]:
                    speeds[str(row["id"])] = row["cpu_capacity"] / row["cpu_count"]
    return speeds


def _read(file: SourceFile, speeds: dict[str, float], context: ImportContext) -> Iterator[Samples]:
    if missing := set(_TRACE) - set(file.columns):
        raise file.error(f"column {min(missing)!r} is missing", "use the files as OpenDC has them")
    kind = file.parquet_schema.field("timestamp").type
    if not pa.types.is_timestamp(kind):
        raise file.error("column 'timestamp' is no timestamp", "use the files as OpenDC has them")
    context.detect(file, "timestamp is the end of an interval, cpu_usage is in MHz.")
    step, joined = 0, 0
    optional = [name for name in ("cpu_count",) if name in file.columns]
    for batch in parquet_batches(file, [*_TRACE, *optional], ["id"]):
        if not len(batch):
            continue
        names, codes = machine_codes(file, "id", batch.column("id"))
        mhz = np.array([_speed(file, name, speeds, context) for name in names])
        ends, _ = times(file, TimeFormat("timestamp"), batch.column("timestamp"), None)
        lengths = _milliseconds(file, batch.column("duration"))
        step = step or _most_common(lengths)
        cores = numbers(file, "cpu_usage", batch.column("cpu_usage")) / mhz[codes]
        steps = np.maximum(1, np.rint(lengths / step).astype(np.int64))
        if len(steps) and steps.max() > _MAX_STEPS:
            raise file.error(
                f"column 'duration': {lengths.max()} ms is too long", "export shorter intervals"
            )
        joined += int((steps > 1).sum())
        context.count(file, len(batch))
        if optional:
            off = numbers(file, "cpu_count", batch.column("cpu_count")) == 0
            machines = [names[code] for code in np.unique(codes[off])]
            context.findings.add("no-vcpus", int(off.sum()), machines)
        for part in _parts(steps):
            starts = ends[part] - lengths[part]
            rows = Samples(file, names, codes[part], starts, {"cpu_cores": cores[part]})
            yield _separate(rows, steps[part], step)
    if joined:
        context.detect(
            file,
            f"{joined} rows join samples of equal demand, so their duration is longer than "
            f"{step // 1000} s. They were separated again.",
        )


def _speed(file: SourceFile, name: str, speeds: dict[str, float], context: ImportContext) -> float:
    speed = speeds.get(name) or context.options.rating_mhz
    if speed is None:
        raise file.error(
            f"column 'cpu_usage' is in MHz, and the speed of a core of machine {name} is unknown",
            "name the file with the sizes of the machines, too, or add --rating-mhz",
        )
    return speed


def _milliseconds(file: SourceFile, array: pa.Array) -> NDArray[np.int64]:
    if pa.types.is_duration(array.type):
        array = pc.cast(array, pa.duration("ms")).cast(pa.int64())
    values = numbers(file, "duration", array)
    if not (values > 0).all():
        raise file.error("column 'duration' has a value that is not positive", "export it again")
    milliseconds: NDArray[np.int64] = np.rint(values).astype(np.int64)
    return milliseconds


def _most_common(values: NDArray[np.int64]) -> int:
    kinds, counts = np.unique(values, return_counts=True)
    return int(kinds[counts.argmax()])


def _parts(steps: NDArray[np.int64]) -> Iterator[slice]:
    """Slices of rows that become a bounded number of samples each."""
    part = np.cumsum(steps) // _CHUNK
    edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(steps)]
    return (slice(first, last) for first, last in pairwise(edges))


def _separate(rows: Samples, steps: NDArray[np.int64], step: int) -> Samples:
    """Each row as so many samples as it has steps."""
    offset = np.arange(steps.sum()) - np.repeat(np.cumsum(steps) - steps, steps)
    return Samples(
        rows.file,
        rows.names,
        np.repeat(rows.machine, steps),
        np.repeat(rows.time, steps) + offset * step,
        {name: np.repeat(values, steps) for name, values in rows.values.items()},
    )
