"""Tables like those of Azure's public data set: CPU readings, and a table of machines.

The data set's files have no header, and its times are seconds from an unknown start. Files with a
header are read by it. CPU is in percent of the machine's cores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from harness.planner.inventory import Machine
from harness.planner.sources.base import ImportContext, Samples
from harness.planner.sources.delimited import read_columns, read_rows
from harness.planner.sources.dialect import Dialect
from harness.planner.sources.source_file import SourceFile
from harness.planner.sources.tables import machine_codes, numbers, times
from harness.planner.sources.times import detect_time_format

_READINGS = ("timestamp", "vmid", "mincpu", "maxcpu", "avgcpu")
_MACHINES = (
    "vmid",
    "subscriptionid",
    "deploymentid",
    "vmcreated",
    "vmdeleted",
    "maxcpu",
    "avgcpu",
    "p95maxcpu",
    "vmcategory",
    "vmcorecountbucket",
    "vmmemorybucket",
)
_ALIASES = {
    "vmcorecount": "vmcorecountbucket",
    "cores": "vmcorecountbucket",
    "vmmemory": "vmmemorybucket",
    "memorygb": "vmmemorybucket",
    "averagecpu": "avgcpu",
    "time": "timestamp",
}
_ID = re.compile(r"[\w+/=-]{8,}")
# What the notebooks of the data set count the open buckets as.
_OPEN = {">24": 30.0, ">64": 70.0}


class Azure:
    name = "azure"

    def recognizes(self, file: SourceFile) -> bool:
        if file.kind != "text":
            return False
        names = set(_dialect(file).header)
        return {"vmid", "timestamp", "avgcpu"} <= names or {"vmid", "vmcorecountbucket"} <= names

    def read_inventory(self, files: Sequence[SourceFile], context: ImportContext) -> None:
        for file in files:
            dialect = _dialect(file)
            if "vmcorecountbucket" not in dialect.header:
                continue
            context.detect(file, "Memory is in GiB.")
            for cells in read_rows(file, dialect):
                row = dict(zip(dialect.header, map(str.strip, cells), strict=False))
                context.count(file, 1)
                context.inventory.add_machine(_machine(file, row, context))

    def read_samples(
        self, files: Sequence[SourceFile], context: ImportContext
    ) -> Iterator[Samples]:
        for file in files:
            dialect = _dialect(file)
            if "timestamp" in dialect.header:
                yield from _read(file, dialect, context)


def _dialect(file: SourceFile) -> Dialect:
    """The file's dialect with plain names of columns, also where it has no header."""
    dialect = file.dialect
    first = [cell.strip() for cell in dialect.header]
    for names, key in ((_READINGS, 1), (_MACHINES, 0)):
        numeric = [cell for number, cell in enumerate(first) if number != key and _is_number(cell)]
        if len(first) == len(names) and len(numeric) >= 4 and _ID.fullmatch(first[key]):
            return replace(dialect, header=names, skip=dialect.skip - 1)
    short = [re.sub(r"[\W_]+", "", name.lower()) for name in first]
    return replace(dialect, header=tuple(_ALIASES.get(name, name) for name in short))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _machine(file: SourceFile, row: dict[str, str], context: ImportContext) -> Machine:
    sizes = []
    for column in ("vmcorecountbucket", "vmmemorybucket"):
        text = row.get(column, "")
        if text in _OPEN:
            context.findings.add("open-bucket", 1, [row["vmid"]])
        elif text and not _is_number(text):
            raise file.error(
                f"column {column!r}: {text!r} is no size", "write a number, or >24 or >64"
            )
        sizes.append(_OPEN.get(text) or (float(text) if text else None))
    cores, gib = sizes
    return Machine(row["vmid"], vcpus=cores, memory_mib=gib * 1024 if gib else None)


def _read(file: SourceFile, dialect: Dialect, context: ImportContext) -> Iterator[Samples]:
    cells = dialect.first_cells("timestamp")
    timezone = context.options.timezone
    form = detect_time_format(str(file.path), "timestamp", cells, timezone, context.options.date)
    values = [name for name in ("avgcpu", "maxcpu") if name in dialect.header]
    for note in (*form.notes, "CPU is in percent of the machine's cores; the minimum is not used."):
        context.detect(file, note)
    text = form.per_second is None
    wanted = values if text else ["timestamp", *values]
    for batch in read_columns(file, wanted, ["vmid", "timestamp"] if text else ["vmid"], dialect):
        if not len(batch):
            continue
        names, codes = machine_codes(file, "vmid", batch.column("vmid"))
        moments, uncertain = times(file, form, batch.column("timestamp"), timezone)
        share = _vcpus(file, names, context)[codes] / 100
        table = {name: numbers(file, name, batch.column(name)) * share for name in values}
        context.count(file, len(batch))
        context.findings.add("clock-change", int(uncertain.sum()), zone=timezone)
        keep = ~uncertain
        demand = {"cpu_cores": table["avgcpu"][keep]}
        if "maxcpu" in table:
            demand["cpu_cores_max"] = table["maxcpu"][keep]
        yield Samples(file, names, codes[keep], moments[keep], demand)


def _vcpus(file: SourceFile, names: Sequence[str], context: ImportContext) -> np.ndarray:
    vcpus = [context.inventory.vcpus(name) for name in names]
    if None in vcpus:
        raise file.error(
            "column 'avgcpu' is a share of cores, but no table of machines has the cores of "
            f"{names[vcpus.index(None)][:40]}",
            "name the file with vmid and vmcorecountbucket, too",
        )
    return np.array(vcpus, dtype=np.float64)
