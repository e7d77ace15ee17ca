"""What a page is made of: sections with words, figures and tables. The templates draw them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from harness.results import RunFacts, differences, load, statistics
from reports import text
from reports.figures import Figure

STAGES = ("kernel", "init", "sshd", "ready")
# texts of samples that are few, however many samples there are
NAMES = (
    *("metric", "unit", "better", "run", "suite", "test", "parameters", "hypervisor", "backend"),
    *("host", "image", "commit"),
)
MOST_ROWS = 500  # of a table on a page
EMULATED = (
    "Emulated host: every figure here was measured on a CPU emulated in software; absolute times "
    "say nothing about hardware."
)


@dataclass(frozen=True)
class Cell:
    """A table's cell: what is shown, what it sorts by, what else is to be said.

    flagged: the cell asks for attention. note: a remark below it. flags: doubts about the row,
    shown in its first cell, where no scrolling hides them. href: of a page beside this one, made by
    us. drawing: SVG, already safe. style: a class of the style sheet.
    """

    text: str
    sort: str | float = ""
    flagged: bool = False
    note: str = ""
    flags: tuple[str, ...] = ()
    href: str = ""
    drawing: Markup | None = None
    style: str = ""

    @property
    def key(self) -> str:
        """The sort attribute: a plain number, or text."""
        if isinstance(self.sort, float):
            return f"{self.sort:.9g}" if math.isfinite(self.sort) else ""
        return self.sort or self.text

    @property
    def dated(self) -> bool:
        """Text that sorts by other text."""
        return isinstance(self.sort, str) and self.sort not in ("", self.text)


@dataclass(frozen=True)
class Column:
    label: str
    numeric: bool = False
    sortable: bool = True


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row names the row. Only so many rows are shown that a page
    stays small: the first ones should be those that matter most."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    @property
    def shown(self) -> Sequence[Sequence[Cell]]:
        return self.rows[:MOST_ROWS]

    @property
    def left_out(self) -> int:
        return len(self.rows) - len(self.shown)


@dataclass
class Section:
    """A part of the page. missing: said in place of content when there is none."""

    id: str
    title: str
    lead: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: str = ""


@dataclass(frozen=True)
class KeyFigure:
    """An answer: its name, its value, and one sentence that says what it means.

    measured: its value depends on the host. style: a class of the style sheet.
    """

    label: str
    value: str
    sentence: str
    measured: bool = True
    style: str = ""


def named(table: pd.DataFrame) -> pd.DataFrame:
    """A small table's names as text again."""
    return table.astype({name: str for name in NAMES if name in table})


@dataclass(frozen=True)
class Run:
    """A run as the report reads it: facts and samples from the store, statistics on demand."""

    facts: RunFacts
    frame: pd.DataFrame

    @classmethod
    def read(cls, parquet: Path) -> Run:
        """Raises ResultError when there is no run, or it cannot be read."""
        facts, frame = load(parquet)
        # a million samples have few names: grouped by number, not letter by letter
        return cls(facts, frame.astype(dict.fromkeys(NAMES, "category")))

    @cached_property
    def emulated(self) -> bool:
        return bool(self.facts.get("emulated")) or statistics.is_emulated(self.frame)

    @cached_property
    def boots(self) -> pd.DataFrame:
        return named(statistics.summarise(self.frame[self.frame["metric"].str.startswith("boot.")]))

    @cached_property
    def costs(self) -> pd.DataFrame:
        return named(statistics.net_costs(self.frame))

    @cached_property
    def overheads(self) -> pd.DataFrame:
        return differences.overheads(self.frame)

    @cached_property
    def utilization(self) -> pd.DataFrame:
        return named(statistics.utilization(self.frame))


def words(value: str, flagged: bool = False) -> Cell:
    return Cell(value or text.NONE, value, flagged)


def figure_cell(value: float, digits: int = 3) -> Cell:
    return Cell(text.number(value, digits), float(value))


def fixed_cell(value: float) -> Cell:
    """Three decimals: for ratios about 1."""
    return Cell(f"{value:.3f}" if math.isfinite(value) else text.NONE, float(value))


def whole(value: int) -> Cell:
    return Cell(f"{value:,}", float(value))


def share(value: float, flagged: bool = False) -> Cell:
    return Cell(text.percent(value), float(value), flagged)


def interval_cell(low: float, high: float) -> Cell:
    return Cell(text.span(low, high), float(low))


def name_cell(name: str, flags: Sequence[str], note: str = "") -> Cell:
    return Cell(name, name, note=note, flags=tuple(flags))


def where(hypervisor: str, backend: str) -> str:
    """ "kvm (emulated)": hypervisor and backend, that belong to every figure."""
    return f"{hypervisor} ({backend})"


def numbered(*labels: str) -> list[Column]:
    """Columns; a label that starts with # is of numbers, one with ~ of drawings."""
    return [
        Column(label.lstrip("#~"), label.startswith("#"), not label.startswith("~"))
        for label in labels
    ]


def failures(counts: Mapping[str, int]) -> dict[str, int]:
    """Of the outcomes those that are bad news."""
    return {n: count for n, count in counts.items() if count and n in ("failed", "error", "errors")}


def ordered(counts: Mapping[str, int]) -> dict[str, int]:
    """Outcomes as a reader expects them: passed, failed, error, skipped, then the others."""
    first = [name for name in ("passed", "failed", "error", "skipped") if name in counts]
    return {name: counts[name] for name in [*first, *(n for n in counts if n not in first)]}
