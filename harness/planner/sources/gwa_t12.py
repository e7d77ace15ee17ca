"""GWA-T-12, the traces of Bitbrains in the Grid Workloads Archive: one CSV file for each machine.

The column `Timestamp [ms]` holds seconds. A value is the mean of the interval that ends at its
time, as in the conversion of OpenDC. The separator is `;` and a tab. Throughput of disks is in
KB/s, from which no number of operations follows, so it is not used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.planner.inventory import Machine
from harness.planner.sources.base import ImportContext, Samples
from harness.planner.sources.delimited import read_columns
from harness.planner.sources.source_file import SourceFile
from harness.planner.sources.tables import numbers
from harness.planner.sources.times import number_format, parse_numbers

# The archive's columns by what they hold here; names are compared without case.
_COLUMNS = {
    "time": "timestamp [ms]",
    "cores": "cpu cores",
    "capacity": "cpu capacity provisioned [mhz]",
    "usage": "cpu usage [mhz]",
    "memory_capacity": "memory capacity provisioned [kb]",
    "memory": "memory usage [kb]",
    "received": "network received throughput [kb/s]",
    "sent": "network transmitted throughput [kb/s]",
}
_REQUIRED = ("time", "cores", "capacity", "usage")
_KIB_IN_MIB = 1024
_FIRST_INTERVAL = 300_000  # ms, of a file with one row

Columns = dict[str, NDArray[np.floating]]


class GwaT12:
    name = "gwa-t-12"

    def recognizes(self, file: SourceFile) -> bool:
        names = {name.lower() for name in file.columns} if file.kind == "text" else set()
        return {_COLUMNS["time"], _COLUMNS["usage"]} <= names

    def read_inventory(self, files: Sequence[SourceFile], context: ImportContext) -> None:
        """The machines are known when their samples have been read."""

    def read_samples(
        self, files: Sequence[SourceFile], context: ImportContext
    ) -> Iterator[Samples]:
        for file, name in zip(files, _machine_names(files), strict=True):
            yield from _read(file, name, context)


def _machine_names(files: Sequence[SourceFile]) -> Iterator[str]:
    """The file's name without its ending; with the source's, if two sources have it.

    Files of one name in several folders of one source are months of one machine.
    """
    sources = defaultdict(set)
    stems = [file.path.name.split(".")[0] for file in files]
    for file, stem in zip(files, stems, strict=True):
        sources[stem].add(file.argument)
    for file, stem in zip(files, stems, strict=True):
        yield f"{file.argument.rstrip('/')}/{stem}" if len(sources[stem]) > 1 else stem


def _read(file: SourceFile, name: str, context: ImportContext) -> Iterator[Samples]:
    columns = _find_columns(file)
    form = number_format(
        str(file.path),
        columns["time"],
        max(map(float, file.dialect.first_cells(columns["time"])), default=0.0),
        context.options.date,
    )
    for note in (*form.notes, "Times are the ends of intervals. KB are KiB."):
        context.detect(file, note)
    if any("disk" in column.lower() for column in file.columns):
        context.detect(
            file, "Throughput of disks is not used: it does not say how many operations."
        )
    interval, vcpus, memory = 0, 0.0, 0.0
    for batch in read_columns(file, list(columns.values()), []):
        table = {
            key: numbers(file, column, batch.column(column)) for key, column in columns.items()
        }
        times = parse_numbers(str(file.path), form, np.asarray(table["time"], np.float64))
        context.count(file, len(times))
        if not interval:
            interval = int(np.median(np.diff(times))) if len(times) > 1 else _FIRST_INTERVAL
        off = ~(table["cores"] > 0)
        context.findings.add("no-vcpus", int(off.sum()), [name])
        vcpus = max(vcpus, float(np.nanmax(table["cores"], initial=0)))
        for key in {"memory_capacity", "memory"} & set(table):
            memory = max(memory, float(np.nanmax(table[key], initial=0)))
        yield Samples.of_machine(file, name, times - interval, _demand(table))
    context.inventory.complete_machine(
        Machine(name, vcpus=vcpus or None, memory_mib=memory / _KIB_IN_MIB or None)
    )


def _find_columns(file: SourceFile) -> dict[str, str]:
    by_name = {column.lower(): column for column in file.columns}
    found = {key: by_name[name] for key, name in _COLUMNS.items() if name in by_name}
    for key in _REQUIRED:
        if key not in found:
            raise file.error(
                f"column {_COLUMNS[key]!r} is missing", "use the files as the archive has them"
            )
    return found


def _demand(table: Columns) -> Columns:
    """Demand in the units of the schema, of the rows of one machine."""
    capacity, cores = table["capacity"], table["cores"]
    mhz = np.divide(capacity, cores, out=np.full(len(cores), np.nan), where=cores > 0)
    cpu = np.divide(table["usage"], mhz, out=np.zeros(len(cores)), where=mhz > 0)
    demand: Columns = {"cpu_cores": cpu}
    if "memory" in table:
        demand["memory_mib"] = table["memory"] / _KIB_IN_MIB
    if {"received", "sent"} <= set(table):
        demand["net_mib_s"] = (table["received"] + table["sent"]) / _KIB_IN_MIB
    return demand
