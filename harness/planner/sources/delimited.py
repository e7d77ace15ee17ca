"""Reading delimited text: columns in batches for traces, rows for inventories."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from harness.errors import PlanError
from harness.planner.sources.dialect import Dialect, unquote_row
from harness.planner.sources.source_file import SourceFile, readable

_BLOCK_BYTES = 8 << 20
_MAX_LINE = 1 << 20
_MAX_ROWS = 2_000_000  # of an inventory
_EMPTY = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "-"]
_BAD_VALUE = re.compile(r"In CSV column #(\d+):.*?invalid value '(.*)'", re.DOTALL)
_BAD_LENGTH = re.compile(r"Expected (\d+) columns, got (\d+)")


def read_columns(
    file: SourceFile,
    numbers: Sequence[str],
    texts: Sequence[str],
    dialect: Dialect | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows in batches, with these columns only: numbers as float64, and texts.

    Memory is bounded by the size of a block. Raises PlanError with the column of a bad value.
    """
    dialect = dialect or file.dialect
    _check_unique(file, dialect.header, [*numbers, *texts])
    types = {name: pa.float64() for name in numbers} | {name: pa.string() for name in texts}
    names = [*dialect.header]
    convert = pacsv.ConvertOptions(
        column_types=types,
        include_columns=[*types],
        null_values=_EMPTY,
        strings_can_be_null=True,
        decimal_point=dialect.decimal_sign(numbers),
    )
    encoding = "utf-8" if dialect.encoding.startswith("utf-8") else dialect.encoding
    read = pacsv.ReadOptions(
        block_size=_BLOCK_BYTES,
        column_names=names,
        skip_rows=dialect.skip,
        encoding="utf-8" if dialect.quoted_rows else encoding,
    )
    parse = pacsv.ParseOptions(delimiter=dialect.separator)
    try:
        with (
            readable(file.path),
            _byte_stream(file, dialect) as stream,
            pacsv.open_csv(stream, read, parse, convert) as reader,
        ):
            yield from reader
    except PlanError as error:
        raise _explain(file, names, error) from error


def read_rows(file: SourceFile, dialect: Dialect | None = None) -> Iterator[list[str]]:
    """The rows after the header, for small tables. Raises PlanError for a row that is too long."""
    dialect = dialect or file.dialect
    lines = text_lines(file, dialect)
    for _ in range(dialect.skip):
        next(lines, None)
    try:
        for number, row in enumerate(csv.reader(lines, delimiter=dialect.separator)):
            if number >= _MAX_ROWS:
                raise file.error(f"has more than {_MAX_ROWS} rows", "split it, or write Parquet")
            if any(cell.strip() for cell in row):
                yield row
    except csv.Error as error:
        raise file.error(f"is no delimited text: {error}", "export it again") from error


def text_lines(file: SourceFile, dialect: Dialect) -> Iterator[str]:
    """The lines of a file, decoded. Raises PlanError for a line of more than 1 MiB."""
    with readable(file.path), pa.input_stream(str(file.path), compression="detect") as stream:
        text = io.TextIOWrapper(io.BufferedReader(stream), encoding=dialect.encoding, newline="")
        try:
            while line := text.readline(_MAX_LINE):
                if len(line) >= _MAX_LINE:
                    raise file.error("has a line of more than 1 MiB", "export it again")
                yield unquote_row(line) + "\n" if dialect.quoted_rows else line
        except UnicodeError as error:
            raise file.error(f"is not {dialect.encoding}: {error}", "save it as UTF-8") from error


def table_rows(file: SourceFile) -> Iterator[dict[str, str]]:
    """The rows of a small table as cells by column, stripped, without the empty ones."""
    header = file.dialect.header
    _check_unique(file, header, header)
    for row in read_rows(file):
        if len(row) > len(header):
            raise _wrong_length(file, len(header), len(row))
        cells = zip(header, (cell.strip() for cell in row), strict=False)
        yield {name: cell for name, cell in cells if cell not in _EMPTY}


def _check_unique(file: SourceFile, header: Sequence[str], columns: Iterable[str]) -> None:
    for name in columns:
        if header.count(name) > 1:
            raise file.error(
                f"has {header.count(name)} columns {name!r}", "give each column a name of its own"
            )


def _byte_stream(file: SourceFile, dialect: Dialect) -> Any:
    """A stream of bytes, decompressed; in UTF-8 and without the quotes around quoted rows."""
    if not dialect.quoted_rows:
        return pa.input_stream(str(file.path), compression="detect")
    return pa.PythonFile(_UnquotedRows(text_lines(file, dialect)), mode="r")


class _UnquotedRows(io.RawIOBase):
    """A file object over lines of text."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._buffer = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts, length = [self._buffer], len(self._buffer)
        while size < 0 or length < size:
            line = next(self._lines, None)
            if line is None:
                break
            parts.append(codecs.encode(line, "utf-8"))
            length += len(parts[-1])
        data = b"".join(parts)
        size = len(data) if size < 0 else size
        self._buffer = data[size:]
        return data[:size]


def _explain(file: SourceFile, names: Sequence[str], error: PlanError) -> PlanError:
    """An error of the parser in terms of the file's columns."""
    if match := _BAD_VALUE.search(error.cause):
        column, value = names[int(match[1])], match[2][:40]
        return file.error(
            f"column {column!r}: {value!r} is no number",
            f"correct {column}, or leave the cell empty where nothing was measured",
        )
    if match := _BAD_LENGTH.search(error.cause):
        return _wrong_length(file, int(match[1]), int(match[2]))
    return error


def _wrong_length(file: SourceFile, expected: int, length: int) -> PlanError:
    return file.error(
        f"a row has {length} cells, but the header has {expected}",
        "quote cells with separators in them; decimal commas need another separator",
    )
