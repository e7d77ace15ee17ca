"""Runs, comparisons and histories in a few lines, for a terminal or a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.results.compare import VERDICTS, Comparison
from reports import series, text
from reports.compare import about, label
from reports.key import key_figures
from reports.page import EMULATED, Run
from reports.series import Name, Row

if TYPE_CHECKING:
    from harness.results.track import Track

MOST_ROWS = 30
COLOURS = {"regressed": "bold red", "improved": "green", "inconclusive": "yellow", "pass": ""}


def lines(parquet: Path) -> list[str]:
    """Plain lines: the label when emulated, then one line a key figure.

    Raises ResultError when the run cannot be read.
    """
    run = Run.read(parquet)
    answers = key_figures(run)
    width = max((len(answer.label) for answer in answers), default=0)
    size = max((len(answer.value) for answer in answers), default=0)
    told = [f"{a.label:<{width}}  {a.value:>{size}}  {a.sentence}" for a in answers]
    if not told:
        told = ["This run holds no samples."]
    return [EMULATED, *told] if run.emulated else told


def comparison(console: Console, found: Comparison) -> None:
    """What regressed, what improved, what cannot be told; passes are counted."""
    for side, one in (("base", found.base), ("new", found.new)):
        _say(console, f"{side}: {label(one)} ({about(one)})")
    _say(console, *([EMULATED] if series.emulated(found.new.facts) else []))
    _say(console, *(f"doubtful: {note}" for note in found.notes), style="yellow")
    _say(console, *(f"differs: {what}: {a} -> {b}" for what, a, b in found.environment))
    shown = [
        (name, row, f"{_quantity(row, 'base')}\n→ {_quantity(row, 'new')}", "")
        for name, row in _attention(found.table.to_dict("records"), series.names(found.table))
    ]
    _table(console, shown, "Base → new")
    _counts(console, found.counts, len(shown))


def track(console: Console, found: Track) -> None:
    """As `comparison`, of a history: what a series' newest change was, and the series' ids."""
    _say(console, f"{text.count(len(found.runs), 'run')}, {series.host(found.runs)}")
    _say(console, *([EMULATED] if series.emulated(found.runs) else []))
    _say(console, *(f"doubtful: {note}" for note in found.notes), style="yellow")
    rows = found.series.to_dict("records")
    shown = []
    for name, row in _attention(rows, series.names(found.series)):
        commits = series.commits(row["before_commit"], row["commit"])
        more = " ".join(filter(None, (f"id {row['id']}", commits)))
        shown.append((name, row, _quantity(row, "level"), more))
    _table(console, shown, "Level")
    _counts(console, found.counts, len(shown))
    known = [row for row in found.changes.to_dict("records") if row["acknowledged"]]
    _say(console, *(f"acknowledged: {row['id']}: {row['acknowledged']}" for row in known))


def _attention(rows: Sequence[Row], names: Sequence[Name]) -> list[tuple[Name, Row]]:
    pairs = zip(names, rows, strict=True)
    return [pair for pair in pairs if pair[1]["verdict"] != "pass"][:MOST_ROWS]


def _quantity(row: Row, name: str) -> str:
    return text.quantity(float(row[name]), str(row["unit"]))


def _table(console: Console, rows: Sequence[tuple[Name, Row, str, str]], values: str) -> None:
    if not rows:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("Figure", overflow="fold", ratio=1)
    table.add_column("Verdict", no_wrap=True)
    table.add_column("Worse by", justify="right", no_wrap=True)
    table.add_column(values, justify="right")
    for name, row, value, more in rows:
        figure = Text(text.plain(name.metric), style="bold")
        below = " ".join(filter(None, (name.workload, f"on {name.hypervisor}", more)))
        figure.append("\n" + text.plain(below), style="dim")
        for flag in row["flags"]:
            figure.append("\n" + text.plain(flag), style="yellow")
        worse = Text(text.signed(row["effect"]))
        interval = text.shares(row["low"], row["high"])
        if interval != text.NONE:
            worse.append("\n" + interval, style="dim")
        verdict = Text(row["verdict"], style=COLOURS.get(row["verdict"], ""))
        table.add_row(figure, verdict, worse, Text("\n".join(map(text.plain, value.split("\n")))))
    console.print(table)


def _counts(console: Console, counts: Mapping[str, int], shown: int) -> None:
    left = sum(counts.values()) - counts["pass"] - shown
    said = ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in VERDICTS)
    _say(console, said + (f" ({left:,} of them not shown)" if left else ""), style="bold")


def _say(console: Console, *said: str, style: str = "") -> None:
    """Lines that no text of a run can colour, move or break."""
    for line in said:
        console.print(Text(text.plain(line), style=style))
