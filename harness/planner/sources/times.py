"""Times of samples: numbers, ISO 8601 and local times become ms since the epoch."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harness.errors import PlanError
from harness.planner.sources.printable import printable

Times = NDArray[np.int64]

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_OFFSET = re.compile(r"(Z|[+-]\d\d:?\d\d)$")
_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?")
_GERMAN = r"^(\d{2})\.(\d{2})\.(\d{4})"
# Numbers of plausible times, by unit: 1990 to 2100.
_EARLIEST, _LATEST = 631_152_000, 4_102_444_800
_UNITS = {"s": 1, "ms": 10**3, "µs": 10**6, "ns": 10**9}
_ISO_HINT = "write times as 2026-03-01T00:00:00Z"


@dataclass(frozen=True)
class TimeFormat:
    """How a column's times are written.

    per_second: of a number; None for text. relative: s since the epoch that the number 0 means.
    local: text without an offset. notes: sentences for the user.
    """

    column: str
    per_second: int | None = None
    relative: int = 0
    local: bool = False
    notes: tuple[str, ...] = ()


def detect_time_format(
    path: str, column: str, cells: Sequence[str], timezone: str | None, start: date | None = None
) -> TimeFormat:
    """The format of a column, by some of its cells. Raises PlanError when it is not certain."""
    if not cells:
        raise PlanError(f"{path}: column {column!r} is empty", hint="export it again with times")
    if all(_NUMBER.fullmatch(cell) for cell in cells):
        return number_format(path, column, max(map(float, cells)), start)
    texts = [re.sub(_GERMAN, r"\3-\2-\1", cell) for cell in cells]
    if bad := next((c for c, text in zip(cells, texts, strict=True) if not _ISO.match(text)), None):
        raise PlanError(f"{path}: column {column!r}: {bad!r} is no time", hint=_ISO_HINT)
    local = [cell for cell in texts if not _OFFSET.search(cell[10:])]
    if not local:
        return TimeFormat(column, notes=(f"{column} has times with their offset from UTC.",))
    if len(local) < len(texts):
        raise PlanError(
            f"{path}: column {column!r} has times with and without an offset from UTC",
            hint=_ISO_HINT,
        )
    if timezone is None:
        raise PlanError(
            f"{path}: column {column!r} has no time zone, such as in {cells[0]!r}",
            hint="add --timezone=UTC, or the zone that the clocks showed, as Europe/Berlin",
        )
    check_zone(timezone)
    return TimeFormat(column, local=True, notes=(f"{column} has local times of {timezone}.",))


def number_format(path: str, column: str, largest: float, start: date | None) -> TimeFormat:
    """The unit of numbers, by the largest of some. start: what 0 means, if they are relative."""
    for unit, per_second in _UNITS.items():
        if _EARLIEST * per_second <= largest < _LATEST * per_second:
            note = f"{column} holds {unit} since 1970"
            named = re.search(r"[\[_ ](s|ms|us|µs|ns)\]?$", column, re.IGNORECASE)
            other = named is not None and named[1].lower() != unit
            return TimeFormat(
                column,
                per_second,
                notes=(note + (f", though its name says {named[1]}." if other and named else "."),),
            )
    if 0 <= largest < 10**8:
        if start is None:
            raise PlanError(
                f"{path}: column {column!r} holds seconds since an unknown start, up to "
                f"{largest:g}",
                hint="add --date with the day of the first sample, as --date=2026-03-01",
            )
        relative = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp())
        note = f"{column} holds seconds since {start} 0:00 UTC."
        return TimeFormat(column, 1, relative, notes=(note,))
    raise PlanError(
        f"{path}: column {column!r}: {largest:g} is no time in s, ms, µs or ns since 1970",
        hint=_ISO_HINT,
    )


def check_zone(timezone: str) -> None:
    """Raises PlanError for a name that is no time zone."""
    try:
        zoneinfo.ZoneInfo(timezone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise PlanError(
            f"{timezone!r} is no time zone", hint="use an IANA name, as UTC or Europe/Berlin"
        ) from error


def parse_numbers(path: str, form: TimeFormat, values: NDArray[np.float64]) -> Times:
    """Numbers as ms since the epoch. Raises PlanError for a number outside 1990 to 2100."""
    per_second = form.per_second or 1
    if np.isnan(values).any():
        raise _no_time(path, form.column, "an empty cell")
    seconds_low = np.array([_EARLIEST - form.relative, _LATEST - form.relative]) * per_second
    low, high = (0, seconds_low[1]) if form.relative else seconds_low
    if len(values) and not low <= values.min() <= values.max() < high:
        bad = values.min() if values.min() < low else values.max()
        raise _no_time(path, form.column, f"{bad:.15g}")
    return np.rint(values * (1000 / per_second)).astype(np.int64) + form.relative * 1000


def parse_texts(
    path: str, form: TimeFormat, cells: pa.Array, timezone: str | None
) -> tuple[Times, NDArray[np.bool_]]:
    """Texts as ms since the epoch, and which of them a clock change makes uncertain.

    Raises PlanError for a text that is no time of this format.
    """
    if cells.null_count:
        raise _no_time(path, form.column, "an empty cell")
    cells = pc.replace_substring_regex(cells, _GERMAN, r"\3-\2-\1")
    kind = pa.timestamp("ms") if form.local else pa.timestamp("ms", "UTC")
    try:
        parsed = cells.cast(kind)
    except pa.ArrowInvalid as error:
        reason = str(error).partition(":")[2].strip() or str(error)
        raise _no_time(path, form.column, reason.splitlines()[0][:120]) from error
    if not form.local:
        return as_milliseconds(parsed), np.zeros(len(cells), np.bool_)
    return localize(parsed, timezone or "UTC")


def localize(local: pa.Array, timezone: str) -> tuple[Times, NDArray[np.bool_]]:
    """Local timestamps as ms since the epoch, and which a clock change repeats or leaves out."""
    early, late = (
        as_milliseconds(pc.assume_timezone(local, timezone, ambiguous=which, nonexistent=which))
        for which in ("earliest", "latest")
    )
    return early, early != late


def as_milliseconds(stamps: pa.Array) -> Times:
    """Timestamps of any unit, without nulls, as ms since the epoch."""
    stamps = stamps.cast(pa.timestamp("ms", stamps.type.tz), safe=False)
    return np.asarray(stamps.cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)


def _no_time(path: str, column: str, value: str) -> PlanError:
    return PlanError(f"{path}: column {column!r}: {printable(value)} is no time", hint=_ISO_HINT)
