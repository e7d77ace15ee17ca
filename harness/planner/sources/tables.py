"""Columns of record batches as numpy arrays: names, numbers and times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.planner.sources.base import ImportContext
from harness.planner.sources.source_file import SourceFile, readable
from harness.planner.sources.times import (
    TimeFormat,
    Times,
    as_milliseconds,
    check_zone,
    localize,
    number_format,
    parse_numbers,
    parse_texts,
)

_BATCH_ROWS = 1 << 20


def parquet_batches(
    file: SourceFile, columns: Sequence[str], names: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file in batches. names: columns to read as dictionaries."""
    texts = [name for name in names if pa.types.is_string(file.parquet_schema.field(name).type)]
    with readable(file.path), pq.ParquetFile(file.path, read_dictionary=texts) as parquet:
        yield from parquet.iter_batches(_BATCH_ROWS, columns=list(columns))


def machine_codes(
    file: SourceFile, column: str, array: pa.Array
) -> tuple[list[str], NDArray[np.int32]]:
    """The distinct names of a column, and for each row its index among them."""
    if array.null_count:
        raise file.error(f"column {column!r} has empty cells", "name the machine in each row")
    if not pa.types.is_dictionary(array.type):
        if not pa.types.is_string(array.type):
            array = _cast(file, column, array, pa.string(), "a text")
        array = array.dictionary_encode()
    names = [str(name).strip() for name in array.dictionary.to_pylist()]
    codes = array.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    return names, codes


def numbers(file: SourceFile, column: str, array: pa.Array) -> NDArray[np.floating]:
    """A column of numbers. A null is NaN. Raises PlanError for another type."""
    kind = array.type
    if pa.types.is_decimal(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        array = array.cast(pa.float64())
    elif not pa.types.is_floating(kind):
        raise file.error(f"column {column!r} is of type {kind}, not a number", "store it as float")
    values: NDArray[np.floating] = array.to_numpy(zero_copy_only=False)
    return values


def parquet_time_format(file: SourceFile, column: str, context: ImportContext) -> TimeFormat:
    """How a Parquet file's times are written. Raises PlanError when it is not certain."""
    kind = file.parquet_schema.field(column).type
    timezone = context.options.timezone
    if pa.types.is_timestamp(kind):
        if kind.tz is not None:
            return TimeFormat(column, notes=(f"{column} has times in UTC.",))
        if timezone is None:
            raise file.error(
                f"column {column!r} has no time zone",
                "add --timezone=UTC, or the zone that the clocks showed, as Europe/Berlin",
            )
        check_zone(timezone)
        return TimeFormat(column, local=True, notes=(f"{column} has local times of {timezone}.",))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        first = next(parquet_batches(file, [column]), None)
        values = numbers(file, column, first.column(0)) if first is not None else np.zeros(1)
        largest = float(np.nanmax(values)) if len(values) else 0.0
        return number_format(str(file.path), column, largest, context.options.date)
    raise file.error(f"column {column!r} is of type {kind}, not a time", "store it as timestamp")


def times(
    file: SourceFile, form: TimeFormat, array: pa.Array, timezone: str | None
) -> tuple[Times, NDArray[np.bool_]]:
    """A column of times as ms since the epoch, and which a clock change makes uncertain."""
    if array.null_count:
        raise file.error(f"column {form.column!r} has empty cells", "write a time in each row")
    certain = np.zeros(len(array), np.bool_)
    if pa.types.is_timestamp(array.type):
        return (
            localize(array, timezone or "UTC")
            if form.local
            else (
                as_milliseconds(array),
                certain,
            )
        )
    if form.per_second is not None:
        values = np.asarray(numbers(file, form.column, array), dtype=np.float64)
        return parse_numbers(str(file.path), form, values), certain
    return parse_texts(str(file.path), form, array, timezone)


def _cast(file: SourceFile, column: str, array: pa.Array, kind: Any, what: str) -> pa.Array:
    try:
        return pc.cast(array, kind)
    except pa.ArrowException as error:
        raise file.error(f"column {column!r} is not {what}", f"store it as {kind}") from error
