"""How a file of delimited text is written: encoding, separator, decimal sign, quotes, header."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.errors import PlanError

_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_SEPARATORS = (";", ",", "\t", "|")  # in the order of preference
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # Excel's first line
_POINT, _COMMA = re.compile(r"[+-]?\d+\.\d+"), re.compile(r"[+-]?\d+,\d+")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_MAX_COLUMNS = 10_000
_FIRST_ROWS = 200


@dataclass(frozen=True)
class Dialect:
    """How delimited text is written.

    skip: lines before the first row, with the header. quoted_rows: each row is one quoted field,
    as spreadsheets write it when the separator is not theirs. first_rows: the cells of some rows.
    notes: sentences about what is unusual.
    """

    path: str
    encoding: str
    separator: str
    skip: int
    quoted_rows: bool
    header: tuple[str, ...]
    first_rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def first_cells(self, column: str) -> list[str]:
        """The cells of a column in the first rows that are not empty."""
        number = self.header.index(column)
        cells = (row[number].strip() for row in self.first_rows if len(row) > number)
        return [cell for cell in cells if cell]

    def decimal_sign(self, columns: Iterable[str]) -> str:
        """The decimal sign of these columns. Raises PlanError when it is not certain."""
        column_of: dict[str, str] = {}
        thousands = True
        for name in columns:
            for cell in self.first_cells(name):
                if _POINT.fullmatch(cell):
                    column_of.setdefault(".", name)
                elif _COMMA.fullmatch(cell) or _THOUSANDS.fullmatch(cell):
                    column_of.setdefault(",", name)
                    thousands = thousands and bool(_THOUSANDS.fullmatch(cell))
        if len(column_of) == 2:
            raise PlanError(
                f"{self.path}: numbers have a decimal point in column {column_of['.']!r} and a "
                f"comma in column {column_of[',']!r}",
                hint="export all numbers with a decimal point and without a thousands separator",
            )
        if "," in column_of and thousands:
            raise PlanError(
                f"{self.path}: the comma in column {column_of[',']!r} may be a decimal sign or "
                "separate thousands",
                hint="export numbers with a decimal point and without a thousands separator",
            )
        return next(iter(column_of), ".")


def sniff(head: bytes, path: str, *, complete: bool) -> Dialect:
    """Find out how text is written, by its head. complete: the head is the whole file.

    Raises PlanError for binary data and for text without a header.
    """
    text, encoding, notes = _decode(head, path)
    lines = text.splitlines()
    if not complete and len(lines) > 1:
        lines.pop()  # it may be cut
    skip, separator = 0, ""
    while lines and (not lines[0].strip() or _SEPARATOR_LINE.fullmatch(lines[0].strip())):
        if match := _SEPARATOR_LINE.fullmatch(lines[0].strip()):
            separator = match[1]
        lines, skip = lines[1:], skip + 1
    if not lines:
        raise PlanError(f"{path} has no header", hint="export it again with a header and rows")
    quoted_rows = _is_quoted_row(lines[0])
    if quoted_rows:
        lines = [unquote_row(line) for line in lines]
        notes = (*notes, "Each row is one quoted field. These quotes were removed.")
    separator = separator or _separator(lines[0])
    header, *rows = _parse(lines[: _FIRST_ROWS + 1], separator, path)
    names = tuple(name.strip() for name in header)
    return Dialect(path, encoding, separator, skip + 1, quoted_rows, names, tuple(rows), notes)


def unquote_row(line: str) -> str:
    """A row without the quotes around all of it."""
    line = line.strip()
    if len(line) >= 2 and line[0] == line[-1] == '"':
        return line[1:-1].replace('""', '"')
    return line


def _decode(head: bytes, path: str) -> tuple[str, str, tuple[str, ...]]:
    """The text, its encoding, and notes."""
    for mark, name in _BOMS:
        if head.startswith(mark):
            note = "It begins with a byte order mark" + (
                "." if name == "utf-8-sig" else " and is encoded as UTF-16."
            )
            return head.decode(name, errors="replace"), name, (note,)
    if b"\0" in head:
        raise PlanError(
            f"{path} is neither text nor a known binary format",
            hint="name CSV, Parquet, JSON or xlsx files",
        )
    try:
        return head.decode("utf-8"), "utf-8", ()
    except UnicodeDecodeError as error:
        if error.start >= len(head) - 3:  # the head ends within a character
            return head[: error.start].decode("utf-8"), "utf-8", ()
    note = "It is not encoded as UTF-8 and was read as Windows-1252."
    return head.decode("cp1252", errors="replace"), "cp1252", (note,)


def _is_quoted_row(line: str) -> bool:
    """Whether a header is one quoted field that contains a separator."""
    line = line.strip()
    if len(line) < 2 or line[0] != '"' or line[-1] != '"':
        return False
    inner = line[1:-1]
    return '"' not in inner.replace('""', "") and any(one in inner for one in _SEPARATORS)


def _separator(header: str) -> str:
    outside = re.sub(r'"[^"]*"', "", header)
    return max(_SEPARATORS, key=outside.count)


def _parse(lines: Sequence[str], separator: str, path: str) -> list[tuple[str, ...]]:
    text = io.StringIO("\n".join(lines))
    try:
        rows = [tuple(row) for row in csv.reader(text, delimiter=separator) if row]
    except csv.Error as error:
        raise PlanError(
            f"{path} is no delimited text: {error}", hint="name CSV, Parquet, JSON or xlsx files"
        ) from error
    if not rows or len(rows[0]) > _MAX_COLUMNS:
        raise PlanError(
            f"{path} has {len(rows[0]) if rows else 0} columns",
            hint="write one row for each machine and time",
        )
    return rows
