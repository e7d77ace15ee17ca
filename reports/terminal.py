"""Runs, comparisons and histories as text for a terminal or a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.results.compare import Comparison, format_counts
from reports import series, text
from reports.compare import describe, label
from reports.key_figures import key_figures
from reports.page import EMULATED, Run
from reports.series import Name, Row

if TYPE_CHECKING:
    from harness.results.history import History

MAX_ROWS = 30
COLOURS = {"regressed": "bold red", "improved": "green", "inconclusive": "yellow", "pass": ""}


def lines(parquet: Path) -> list[str]:
    """The key figures of a run, one line each, after the warning for an emulated host.

    Raises ResultError when the run cannot be read.
    """
    run = Run.read(parquet)
    answers = key_figures(run)
    width = max((len(answer.label) for answer in answers), default=0)
    size = max((len(answer.value) for answer in answers), default=0)
    summary = [f"{a.label:<{width}}  {a.value:>{size}}  {a.sentence}" for a in answers]
    if not summary:
        summary = ["This run has no samples."]
    return [EMULATED, *summary] if run.emulated else summary


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print the figures that are no pass, and the number of each verdict."""
    for name, side in (("base", comparison.base), ("new", comparison.new)):
        _print(console, f"{name}: {label(side)} ({describe(side)})")
    _print(console, *([EMULATED] if series.any_emulated(comparison.new.facts) else []))
    _print(console, *(f"caveat: {note}" for note in comparison.notes), style="yellow")
    differences = (f"differs: {fact}: {a} -> {b}" for fact, a, b in comparison.environment)
    _print(console, *differences)
    names = series.series_names(comparison.table)
    shown = [
        (name, row, f"{_quantity(row, 'base')}\n→ {_quantity(row, 'new')}", "")
        for name, row in _without_passes(comparison.table.to_dict("records"), names)
    ]
    _print_table(console, shown, "Base → new")
    _print_counts(console, comparison.counts, len(shown))


def print_history(console: Console, history: History) -> None:
    """Print the series that are no pass, with their ids and newest changes."""
    _print(console, f"{text.count(len(history.runs), 'run')}, {series.host_label(history.runs)}")
    _print(console, *([EMULATED] if series.any_emulated(history.runs) else []))
    _print(console, *(f"caveat: {note}" for note in history.notes), style="yellow")
    rows = history.series.to_dict("records")
    shown = []
    for name, row in _without_passes(rows, series.series_names(history.series)):
        commits = series.commit_range(row["previous_commit"], row["commit"])
        more = " ".join(filter(None, (f"id {row['id']}", commits)))
        shown.append((name, row, _quantity(row, "level"), more))
    _print_table(console, shown, "Level")
    _print_counts(console, history.counts, len(shown))
    known = [row for row in history.changes.to_dict("records") if row["acknowledged"]]
    _print(console, *(f"acknowledged: {row['id']}: {row['acknowledged']}" for row in known))


def _without_passes(rows: Sequence[Row], names: Sequence[Name]) -> list[tuple[Name, Row]]:
    pairs = zip(names, rows, strict=True)
    return [pair for pair in pairs if pair[1]["verdict"] != "pass"][:MAX_ROWS]


def _quantity(row: Row, name: str) -> str:
    return text.quantity(float(row[name]), str(row["unit"]))


def _print_table(console: Console, rows: Sequence[tuple[Name, Row, str, str]], values: str) -> None:
    if not rows:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("Figure", overflow="fold", ratio=1)
    table.add_column("Verdict", no_wrap=True)
    table.add_column("Worse by", justify="right", no_wrap=True)
    table.add_column(values, justify="right")
    for name, row, value, more in rows:
        figure = Text(text.printable(name.metric), style="bold")
        details = " ".join(filter(None, (name.workload, f"on {name.hypervisor}", more)))
        figure.append("\n" + text.printable(details), style="dim")
        for flag in row["flags"]:
            figure.append("\n" + text.printable(flag), style="yellow")
        effect = Text(text.signed(row["effect"]))
        interval = text.signed_interval(row["low"], row["high"])
        if interval != text.NONE:
            effect.append("\n" + interval, style="dim")
        verdict = Text(row["verdict"], style=COLOURS.get(row["verdict"], ""))
        levels = Text("\n".join(map(text.printable, value.split("\n"))))
        table.add_row(figure, verdict, effect, levels)
    console.print(table)


def _print_counts(console: Console, counts: Mapping[str, int], shown: int) -> None:
    hidden = sum(counts.values()) - counts["pass"] - shown
    verdicts = format_counts(counts)
    note = f" ({hidden:,} of them not shown)" if hidden else ""
    _print(console, verdicts + note, style="bold")


def _print(console: Console, *lines: str, style: str = "") -> None:
    """Print lines without control characters, so that no text of a run can change the terminal."""
    for line in lines:
        console.print(Text(text.printable(line), style=style))
