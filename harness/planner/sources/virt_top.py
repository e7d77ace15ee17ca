"""virt-top --csv: one row for each moment. Each domain repeats the columns of a domain.

The times have no date, so --date is that of the first row. Counts of requests and bytes are those
of the interval since the row before. The first row of a domain has nothing to subtract from: its
memory is zero, and it is left out. %CPU is a share of all CPUs of the host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

from harness.planner.inventory import Host, Machine
from harness.planner.sources.base import COLUMNS, ImportContext, Samples
from harness.planner.sources.delimited import read_rows
from harness.planner.sources.source_file import SourceFile
from harness.planner.sources.times import check_zone, localize

_TIME = re.compile(r"(\d{1,2}):(\d\d):(\d\d)")
_DOMAIN = "Domain ID"  # the first column of a domain
_REQUIRED = ("Hostname", "Time", "Physical CPUs", _DOMAIN, "Domain name", "%CPU")
_HOST_MEMORY = ("Total hardware memory (KB)", "Total memory (KB)")  # newer and older versions
_CHUNK = 100_000
_MIDNIGHT = 12 * 3600  # a clock that goes back by more has passed midnight
_KIB_IN_MIB = 1024


@dataclass
class _Rows:
    """Samples that are collected until there are enough of them."""

    names: list[str] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    values: list[tuple[float, ...]] = field(default_factory=list)


class VirtTop:
    name = "virt-top"

    def recognizes(self, file: SourceFile) -> bool:
        return file.kind == "text" and {"Hostname", "Time", "Domain name"} <= set(file.columns)

    def read_inventory(self, files: Sequence[SourceFile], context: ImportContext) -> None:
        """The machines are known when their samples have been read."""

    def read_samples(
        self, files: Sequence[SourceFile], context: ImportContext
    ) -> Iterator[Samples]:
        for file in files:
            yield from _File(file, context).samples()


class _File:
    """One file, read row by row."""

    def __init__(self, file: SourceFile, context: ImportContext) -> None:
        header = file.columns
        for column in _REQUIRED:
            if column not in header:
                raise file.error(f"column {column!r} is missing", "run virt-top with --csv again")
        if context.options.date is None or context.options.timezone is None:
            raise file.error(
                "column 'Time' has neither a date nor a time zone",
                "add --date with the day of the first row, and --timezone",
            )
        check_zone(context.options.timezone)
        self.file, self.context = file, context
        self.zone = context.options.timezone
        self.day = datetime.combine(context.options.date, datetime.min.time())
        self.first = header.index(_DOMAIN)
        self.fixed = {name: number for number, name in enumerate(header[: self.first])}
        self.domain = {name: number for number, name in enumerate(header[self.first :])}
        self.memory_unit: float | None = None
        self.memory: dict[str, float] = {}

    def samples(self) -> Iterator[Samples]:
        self._tell()
        rows, before = _Rows(), None
        row: list[str] = []
        for row in read_rows(self.file):
            if row[0] == "Hostname":
                continue  # files of several runs were joined
            self.context.count(self.file, 1)
            now = self._time(row, before)
            if before is not None and now > before:
                self._add(rows, row, before, (now - before).total_seconds())
            before = now
            if len(rows.names) >= _CHUNK:
                yield self._batch(rows)
                rows = _Rows()
        if rows.names:
            yield self._batch(rows)
        self._describe(row)

    def _tell(self) -> None:
        self.context.detect(
            self.file, f"Time has local times of {self.zone}, from {self.day.date()}."
        )
        self.context.detect(self.file, "%CPU is a share of all CPUs of the host.")
        if "Block RDBY" in self.domain:
            self.context.detect(
                self.file, "Block RDBY and WRBY are not used: bytes are no operations."
            )

    def _time(self, row: Sequence[str], before: datetime | None) -> datetime:
        """The local time of a row. The date goes on at midnight."""
        match = _TIME.fullmatch(row[self.fixed["Time"]].strip()) if len(row) > 1 else None
        try:
            if match is None:
                raise ValueError
            now = self.day.replace(hour=int(match[1]), minute=int(match[2]), second=int(match[3]))
        except ValueError as error:
            raise self.file.error(
                f"column 'Time': {row[1] if len(row) > 1 else ''!r} is no time of day",
                "run virt-top with --csv again",
            ) from error
        if before is not None and (before - now).total_seconds() > _MIDNIGHT:
            self.day += timedelta(days=1)
            now += timedelta(days=1)
        return now

    def _add(self, rows: _Rows, row: Sequence[str], start: datetime, seconds: float) -> None:
        """The domains of one row, which ends an interval."""
        width = len(self.domain)
        if (len(row) - self.first) % width:
            raise self.file.error(
                f"a row has {len(row) - self.first} cells of domains, but a domain has {width}",
                "run virt-top with --csv again",
            )
        groups = [row[place : place + width] for place in range(self.first, len(row), width)]
        cpus = self._number(row, self.fixed, "Physical CPUs")
        memories = [self._number(group, self.domain, "Mem (bytes)") for group in groups]
        if self.memory_unit is None and np.nansum(memories) > 0:
            self._find_memory_unit(float(np.nansum(memories)), row)
        for group, memory in zip(groups, memories, strict=True):
            if memory == 0:
                continue  # see the docstring
            counts = [
                self._number(group, self.domain, name) / seconds
                for name in ("Block RDRQ", "Block WRRQ", "Net RXBY", "Net TXBY")
            ]
            name = group[self.domain["Domain name"]].strip()
            mib = memory / (self.memory_unit or 1)
            self.memory[name] = float(np.fmax(self.memory.get(name, 0.0), mib))
            rows.names.append(name)
            rows.times.append(start)
            rows.values.append(
                (
                    self._number(group, self.domain, "%CPU") / 100 * cpus,
                    mib,
                    counts[0],
                    counts[1],
                    (counts[2] + counts[3]) / (1 << 20),
                    np.nan,
                )
            )

    def _find_memory_unit(self, total: float, row: Sequence[str]) -> None:
        """`Mem (bytes)` holds KiB in many versions: compare with the total in KiB."""
        kib = self._number(row, self.fixed, "Total guest memory (KB)")
        in_kib = total < 32 * kib
        self.memory_unit = _KIB_IN_MIB if in_kib else float(1 << 20)
        note = (
            "Mem (bytes) holds KiB, though its name says bytes."
            if in_kib
            else ("Mem (bytes) holds bytes.")
        )
        self.context.detect(self.file, note)

    def _number(self, cells: Sequence[str], places: dict[str, int], name: str) -> float:
        """The number in a column; NaN when the column or the value is missing."""
        place = places.get(name)
        text = cells[place].strip() if place is not None and place < len(cells) else ""
        try:
            return float(text) if text else np.nan
        except ValueError as error:
            raise self.file.error(
                f"column {name!r}: {text[:40]!r} is no number", "run virt-top with --csv again"
            ) from error

    def _batch(self, rows: _Rows) -> Samples:
        local = pa.array(rows.times, pa.timestamp("ms"))
        times, uncertain = localize(local, self.zone)
        names = list(dict.fromkeys(rows.names))
        codes = {name: code for code, name in enumerate(names)}
        machine = np.array([codes[name] for name in rows.names], dtype=np.int32)
        self.context.findings.add(
            "clock-change",
            int(uncertain.sum()),
            [names[code] for code in np.unique(machine[uncertain])],
            zone=self.zone,
        )
        keep = ~uncertain
        table = np.array(rows.values, dtype=np.float64)[keep]
        values = {name: table[:, number] for number, name in enumerate(COLUMNS)}
        return Samples(self.file, names, machine[keep], times[keep], values)

    def _describe(self, row: Sequence[str]) -> None:
        """Add the host and its machines. Their vCPUs are not in the file."""
        if not row:
            raise self.file.error("has no rows", "run virt-top with --csv again")
        host = row[self.fixed["Hostname"]].strip()
        column = next((name for name in _HOST_MEMORY if name in self.fixed), "")
        kib = self._number(row, self.fixed, column)
        threads = self._number(row, self.fixed, "Physical CPUs")
        self.context.inventory.add_host(
            Host(host, threads=threads, memory_mib=kib / _KIB_IN_MIB if kib > 0 else None)
        )
        for name, memory in self.memory.items():
            self.context.inventory.complete_machine(
                Machine(name, memory_mib=memory or None, host=host)
            )
