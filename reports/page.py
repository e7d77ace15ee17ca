"""The model of a page: sections with text, figures and tables. The templates render it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from harness.results import RunFacts, differences, load, statistics
from harness.results.schema import decode_parameters
from reports import text
from reports.figures import Figure

STAGES = ("kernel", "init", "sshd", "ready")
# text columns with few distinct values
NAMES = (
    *("metric", "unit", "better", "run", "suite", "test", "parameters", "hypervisor", "backend"),
    *("host", "image", "commit"),
)
MOST_ROWS = 500  # of a table on a page
CONFIDENT_INTERVAL = f"{text.whole_percent(statistics.CONFIDENCE)} interval"
EMULATED = (
    "Emulated host: all figures come from a CPU emulated in software. Absolute times do not apply "
    "to hardware."
)


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text and its sort key.

    flagged: the cell is highlighted. note: a remark below the text. flags: doubts about the row,
    shown in its first cell, which scrolling never hides. href: relative link to another page of the
    reports. drawing: SVG, already escaped. style: a class of the style sheet.
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
        """The sort attribute: a number without formatting, or text."""
        if isinstance(self.sort, float):
            return f"{self.sort:.9g}" if math.isfinite(self.sort) else ""
        return self.sort or self.text

    @property
    def has_sort_text(self) -> bool:
        """Whether the cell sorts by another text than the shown one (a date, by its ISO form)."""
        return isinstance(self.sort, str) and self.sort not in ("", self.text)


@dataclass(frozen=True)
class Column:
    label: str
    numeric: bool = False
    sortable: bool = True


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its header.

    The page shows the first MOST_ROWS rows, so the most important ones come first.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]

    @property
    def shown(self) -> Sequence[Sequence[Cell]]:
        return self.rows[:MOST_ROWS]

    @property
    def hidden_count(self) -> int:
        return len(self.rows) - len(self.shown)


@dataclass
class Section:
    """A section of the page. placeholder: text in place of the content when there is none."""

    id: str
    title: str
    lead: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    placeholder: str = ""


@dataclass(frozen=True)
class KeyFigure:
    """A figure at the top of the page: label, value, and one sentence of explanation.

    measured: the value depends on the host. style: a class of the style sheet.
    """

    label: str
    value: str
    sentence: str
    measured: bool = True
    style: str = ""


def names_as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its NAMES as text instead of categories."""
    return table.astype({name: str for name in NAMES if name in table})


@dataclass(frozen=True)
class Run:
    """The data of a run report: facts and samples; statistics are computed once, on demand."""

    facts: RunFacts
    frame: pd.DataFrame

    @classmethod
    def read(cls, parquet: Path) -> Run:
        """Raises ResultError when there is no run, or when it cannot be read."""
        facts, frame = load(parquet)
        # Categories make it fast to group a million samples by their few names.
        return cls(facts, frame.astype(dict.fromkeys(NAMES, "category")))

    @cached_property
    def emulated(self) -> bool:
        return bool(self.facts.get("emulated")) or statistics.is_emulated(self.frame)

    @cached_property
    def boots(self) -> pd.DataFrame:
        return names_as_text(
            statistics.summarise(self.frame[self.frame["metric"].str.startswith("boot.")])
        )

    @cached_property
    def costs(self) -> pd.DataFrame:
        return names_as_text(statistics.net_costs(self.frame))

    @cached_property
    def overheads(self) -> pd.DataFrame:
        return differences.overheads(self.frame)

    @cached_property
    def utilization(self) -> pd.DataFrame:
        return names_as_text(statistics.utilization(self.frame))


def text_cell(value: str, flagged: bool = False) -> Cell:
    return Cell(value or text.NONE, value, flagged)


def figure_cell(value: float, digits: int = 3) -> Cell:
    return Cell(text.number(value, digits), float(value))


def fixed_cell(value: float) -> Cell:
    """A number with three decimals, for ratios near 1."""
    return Cell(f"{value:.3f}" if math.isfinite(value) else text.NONE, float(value))


def count_cell(value: int) -> Cell:
    return Cell(f"{value:,}", float(value))


def percent_cell(value: float, flagged: bool = False) -> Cell:
    return Cell(text.percent(value), float(value), flagged)


def interval_cell(low: float, high: float) -> Cell:
    return Cell(text.interval(low, high), float(low))


def name_cell(name: str, flags: Sequence[str], note: str = "") -> Cell:
    return Cell(name, name, note=note, flags=tuple(flags))


def interval_name(boots: int) -> str:
    """What an interval over so many boots is: few boots support no 95 %."""
    return CONFIDENT_INTERVAL if statistics.reaches_confidence(boots) else "range of few boots"


def interval_heading(boots: Iterable[int]) -> str:
    """The heading of a column of intervals, which names a confidence that all of them reach.

    boots: of each row; with one boot it has no interval.
    """
    known = [count for count in boots if count > 1]
    supported = bool(known) and all(map(statistics.reaches_confidence, known))
    return CONFIDENT_INTERVAL if supported else "Interval"


def target_label(hypervisor: str, backend: str) -> str:
    """Hypervisor and backend, which belong to every figure: "kvm (emulated)"."""
    return f"{hypervisor} ({backend})"


def columns(*labels: str) -> list[Column]:
    """Columns from labels; "#" marks a column of numbers, "~" one of drawings."""
    return [
        Column(label.lstrip("#~"), label.startswith("#"), not label.startswith("~"))
        for label in labels
    ]


def workload(row: Mapping[Hashable, Any]) -> str:
    """Variant (see figure_names.py) and parameters of a row."""
    setting = text.setting(decode_parameters(row["parameters"]))
    return ", ".join(filter(None, (row["variant"], setting)))


def failed_outcomes(counts: Mapping[str, int]) -> dict[str, int]:
    """The outcomes that are failures, with their counts above 0."""
    return {n: count for n, count in counts.items() if count and n in ("failed", "error", "errors")}


def count_tests(counts: Mapping[str, int]) -> int:
    """The number of tests: an attempt that was repeated is none."""
    return sum(count for name, count in counts.items() if name != "rerun")


def ordered_outcomes(counts: Mapping[str, int]) -> dict[str, int]:
    """Outcomes in the order passed, failed, error, skipped, others."""
    first = [name for name in ("passed", "failed", "error", "skipped") if name in counts]
    return {name: counts[name] for name in [*first, *(n for n in counts if n not in first)]}
