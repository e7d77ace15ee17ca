"""The planner's own schema, as CSV and as Parquet: trace, inventory and hosts.

The columns are those of trace.TRACE, trace.MACHINES and trace.HOSTS. Quantities may have another
unit in their names, such as memory_gib or cpu_percent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from harness.planner.inventory import Host, Machine
from harness.planner.sources.base import ImportContext, Samples
from harness.planner.sources.columns import Column, Table, table_columns, table_of, trace_columns
from harness.planner.sources.delimited import read_columns, table_rows
from harness.planner.sources.source_file import SourceFile
from harness.planner.sources.tables import (
    machine_codes,
    numbers,
    parquet_batches,
    parquet_time_format,
    times,
)
from harness.planner.sources.times import TimeFormat, detect_time_format

_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "1", "on", "poweredon"), True),
    **dict.fromkeys(("false", "no", "0", "off", "poweredoff"), False),
}
_TEXTS = ("vm", "host", "cluster", "apart", "together", "licence", "pin", "model")
_MAX_TABLE_ROWS = 2_000_000


class PlannerSchema:
    name = "planner"

    def recognizes(self, file: SourceFile) -> bool:
        return table_of(file.columns) is not None

    def read_inventory(self, files: Sequence[SourceFile], context: ImportContext) -> None:
        for file in files:
            table = _table(file)
            if table == "trace":
                continue
            columns = table_columns(file, table)
            _tell(file, columns, context)
            for row in _rows(file, columns):
                context.count(file, 1)
                values = {
                    one.target: _cell(file, one, row[one.name])
                    for one in columns
                    if one.name in row
                }
                if table == "machines":
                    context.inventory.add_machine(Machine(**{"vm": "", **values}))  # type: ignore[arg-type]
                else:
                    context.inventory.add_host(Host(**{"host": "", **values}))  # type: ignore[arg-type]

    def read_samples(
        self, files: Sequence[SourceFile], context: ImportContext
    ) -> Iterator[Samples]:
        for file in files:
            if _table(file) == "trace":
                yield from _samples(file, context)


def _table(file: SourceFile) -> Table:
    table = table_of(file.columns)
    if table is None:
        raise file.error(
            "has none of the column pairs time and vm, vm and vcpus, host and cores",
            "rename the columns as in the manual, or name another --format",
        )
    return table


def _tell(file: SourceFile, columns: Sequence[Column], context: ImportContext) -> None:
    for column in columns:
        if column.note:
            context.detect(file, column.note)
    if file.kind == "text":
        for note in file.dialect.notes:
            context.detect(file, note)


def _rows(file: SourceFile, columns: Sequence[Column]) -> Iterator[dict[str, object]]:
    """The rows of a table by the file's names, without empty cells."""
    if file.kind == "text":
        sign = file.dialect.decimal_sign(one.name for one in columns if one.target not in _TEXTS)
        for row in table_rows(file):
            yield {
                name: cell.replace(",", ".") if sign == "," and _is_number(cell) else cell
                for name, cell in row.items()
            }
        return
    count = 0
    for batch in parquet_batches(file, [one.name for one in columns]):
        count += len(batch)
        if count > _MAX_TABLE_ROWS:
            raise file.error(f"has more than {_MAX_TABLE_ROWS} rows", "split it")
        for values in batch.to_pylist():
            yield {name: value for name, value in values.items() if value is not None}


def _is_number(cell: str) -> bool:
    return cell.replace(",", "", 1).lstrip("+-").isdigit()


def _cell(file: SourceFile, column: Column, value: object) -> object:
    if column.target in _TEXTS:
        return str(value)
    if column.target in ("powered_on", "template"):
        if (flag := _BOOLEANS.get(str(value).strip().lower())) is None:
            raise file.error(
                f"column {column.name!r}: {value!r} is no boolean", "write true or false"
            )
        return flag
    try:
        return float(str(value)) * float(column.scale)
    except ValueError as error:
        raise file.error(
            f"column {column.name!r}: {value!r} is no number",
            f"correct {column.name}, or leave the cell empty",
        ) from error


def _samples(file: SourceFile, context: ImportContext) -> Iterator[Samples]:
    time, vm, columns = trace_columns(file)
    form, batches = _open_trace(file, time, vm, columns, context)
    _tell(file, columns, context)
    for note in form.notes:
        context.detect(file, note)
    timezone = context.options.timezone
    for batch in batches:
        if not len(batch):
            continue
        names, codes = machine_codes(file, vm.name, batch.column(vm.name))
        moments, uncertain = times(file, form, batch.column(time.name), timezone)
        values = {}
        for one in columns:
            raw = numbers(file, one.name, batch.column(one.name))
            scale = _scale(file, one, names, codes, context)
            values[one.target] = raw if isinstance(scale, float) and scale == 1 else raw * scale
        context.count(file, len(batch))
        if uncertain.any():
            lost = [names[code] for code in np.unique(codes[uncertain])]
            context.findings.add("clock-change", int(uncertain.sum()), lost, zone=timezone)
            codes, moments = codes[~uncertain], moments[~uncertain]
            values = {target: array[~uncertain] for target, array in values.items()}
        yield Samples(file, names, codes, moments, values)


def _open_trace(
    file: SourceFile, time: Column, vm: Column, columns: Sequence[Column], context: ImportContext
) -> tuple[TimeFormat, Iterator[pa.RecordBatch]]:
    """The format of the times, and the rows in batches."""
    wanted = [one.name for one in columns]
    if file.kind == "parquet":
        form = parquet_time_format(file, time.name, context)
        return form, parquet_batches(file, [time.name, vm.name, *wanted], [vm.name])
    form = detect_time_format(
        str(file.path),
        time.name,
        file.dialect.first_cells(time.name),
        context.options.timezone,
        context.options.date,
    )
    if file.dialect.decimal_sign(wanted) == ",":
        context.detect(file, "Numbers have decimal commas.")
    if form.per_second is None:
        return form, read_columns(file, wanted, [time.name, vm.name])
    return form, read_columns(file, [time.name, *wanted], [vm.name])


def _scale(
    file: SourceFile,
    column: Column,
    names: Sequence[str],
    codes: NDArray[np.int32],
    context: ImportContext,
) -> float | NDArray[np.float32]:
    """What a column's values are multiplied by; for percent, a number for each row."""
    if column.scale == "mhz":
        if context.options.rating_mhz is None:
            raise file.error(
                f"column {column.name!r} is in MHz, and the speed of a core is unknown",
                "add --rating-mhz with the speed of one core",
            )
        return 1 / context.options.rating_mhz
    if column.scale != "percent":
        return column.scale
    vcpus = [context.inventory.vcpus(name) for name in names]
    if None in vcpus:
        raise file.error(
            f"column {column.name!r} is a share of vCPUs, but no inventory has the vCPUs of "
            f"{names[vcpus.index(None)]}",
            "add an inventory with the columns vm and vcpus",
        )
    return np.array([(one or 0.0) / 100 for one in vcpus], dtype=np.float32)[codes]
