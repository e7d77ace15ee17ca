"""What a reader of a format is, and what it exchanges with the import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.planner.findings import FindingLog
from harness.planner.inventory import Inventory
from harness.planner.sources.printable import printable
from harness.planner.sources.source_file import SourceFile
from harness.planner.trace import TRACE

# The measured columns of a trace, in the order of the schema.
COLUMNS: tuple[str, ...] = tuple(TRACE.names[2:])


@dataclass(frozen=True)
class Samples:
    """Rows of a trace.

    file: what they were read from. names: of machines. machine: for each row an index of names.
    time: ms since the epoch, of the start of the interval. values: by the names in COLUMNS; NaN is
    a value that nobody measured.
    """

    file: SourceFile
    names: Sequence[str]
    machine: NDArray[np.int32]
    time: NDArray[np.int64]
    values: Mapping[str, NDArray[np.floating]]

    @classmethod
    def of_machine(
        cls,
        file: SourceFile,
        name: str,
        time: NDArray[np.int64],
        values: Mapping[str, NDArray[np.floating]],
    ) -> Samples:
        return cls(file, [name], np.zeros(len(time), np.int32), time, values)


@dataclass(frozen=True)
class ImportOptions:
    """The options of `plan import`. None: the sources must say it themselves.

    format: of all sources. timezone: an IANA name, for times without an offset. date: of the first
    sample, for times without a date. rating_mhz: of one core, for demand in MHz. step: seconds,
    to average finer samples to.
    """

    format: str | None = None
    timezone: str | None = None
    date: date | None = None
    rating_mhz: float | None = None
    step: float | None = None


@dataclass
class ImportContext:
    """What all readers of one import share.

    format: of the reader that runs. detected, rows: by source and format.
    """

    options: ImportOptions
    format: str = ""
    inventory: Inventory = field(default_factory=Inventory)
    findings: FindingLog = field(default_factory=FindingLog)
    detected: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    rows: dict[tuple[str, str], int] = field(default_factory=dict)

    def detect(self, file: SourceFile, sentence: str) -> None:
        """Record what was detected in a source: a sentence about columns or units."""
        sentences = self.detected.setdefault((file.argument, self.format), [])
        if (safe := printable(sentence)) not in sentences:
            sentences.append(safe)

    def count(self, file: SourceFile, rows: int) -> None:
        key = (file.argument, self.format)
        self.rows[key] = self.rows.get(key, 0) + rows


class Reader(Protocol):
    """One format. Its methods raise PlanError, with the column and a hint."""

    @property
    def name(self) -> str:
        """The name in `--format`."""

    def recognizes(self, file: SourceFile) -> bool:
        """Whether a file has this format, by its head only."""

    def read_inventory(self, files: Sequence[SourceFile], context: ImportContext) -> None:
        """Add the machines and hosts that the files describe.

        It is called for all readers before any sample is read, since demand in percent needs them.
        """

    def read_samples(
        self, files: Sequence[SourceFile], context: ImportContext
    ) -> Iterator[Samples]:
        """The files' samples, in any order. A machine's columns may come one after another."""
