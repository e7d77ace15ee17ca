"""The history of every figure over a store's runs, as one HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.results.compare import SERIES, TOLERANCE
from reports import figures, history, series, text
from reports.history import History, Turn
from reports.page import Cell, KeyFigure, Section, Table, figure_cell, name_cell, numbered, words
from reports.render import Page, Raw, html, raw, write
from reports.series import Name, Row

if TYPE_CHECKING:
    from harness.results.track import Track

ID = "id"
MOST_CHARTS = 20
_SPARKS = 40_000  # points of all sparklines together
MEANINGS = {
    "regressed": "worse since a change that is not acknowledged",
    "improved": "the newest change is for the better",
    "inconclusive": "too few runs or too much noise to tell",
    "pass": "no change that is news",
}
METHOD = (
    ("What is followed", "Every figure that can become better or worse, but for the host's own "
     "utilization; one value a run: the median of its boots' medians. Hosts of other CPUs, "
     "backends or profiles have series of their own."),
    ("Changes", "Splits of a series that energy statistics (E-divisive) find, shown by a rank test "
     "with Benjamini and Hochberg's bound over all series of a night. The level is the median "
     "since the last change."),
    ("Regressed", "A change for the worse that nobody has acknowledged still holds: the level is "
     "worse than before it."),
    ("Improved", "The newest change is for the better, and it is news."),
    ("Pass", "No change was found, and the noise is small enough for a step of "
     f"{text.percent(TOLERANCE)} to be seen within days."),
    ("Inconclusive", "The series is too short or too noisy to say either, or no longer measured."),
    ("Worse by", "Of the change that the verdict is for, else of the newest, signed by direction: "
     "above 0 % is worse, whether more of the figure is better or less. Its interval covers 95 %."),
    ("Commits, environment", "What differs between the last run before a change and the first one "
     "after it. It says where to look; it does not say what was the cause."),
)  # fmt: skip


def render(track: Track, out: Path) -> Path:
    """Write the page of a history, one file below 1 MiB. Raises ResultError when it cannot be
    written; what was there before then stays."""
    return write(to_html(track), out)


def to_html(track: Track) -> str:
    names = dict(zip(track.series[ID], series.names(track.series), strict=True))
    past = histories(track)
    data, rows = values(track)
    emulated = series.emulated(track.runs)
    page = Page(
        kind="Hypervisor figures over time",
        title=f"History of {text.count(len(track.runs), 'run')}",
        name="history",
        sections=[
            changed(track, names),
            charts(track, names, past),
            every(track, names, past),
            series.doubts(track.notes),
        ],
        keys=keys(track, names),
        method=METHOD,
        raw=data,
        warnings=series.warnings(track.runs, track.notes),
        tag="emulated" if emulated else "",
    )
    first, last = track.runs[0], track.runs[-1]
    span = dict.fromkeys(text.date(run.get("start", "")) for run in (first, last))
    return html(
        "trend.html",
        page,
        span=" to ".join(span),
        rows=rows,
        host=series.host(track.runs),
        last=last,
        commit=series.commit(last),
    )


def values(track: Track) -> tuple[Raw, str]:
    """The values to be downloaded, and what a row is; one a series where that alone fits."""
    points = track.points.assign(
        value=track.points["value"].map("{:.6g}".format),
        commit=track.points["commit"].map(series.short_commit),
    )
    found = raw("history", points[[ID, *SERIES, "run", "commit", "value", "n", "boots"]])
    if found.encoded:
        return found, "one a run and figure, with its samples and boots"
    table = points.pivot(index=[ID, *SERIES], columns="run", values="value").reset_index()
    return raw("history", table), "a row a figure, a column a run"


def keys(track: Track, names: Mapping[str, Name]) -> list[KeyFigure]:
    told = series.counted(track.counts, MEANINGS)
    rows = track.series[track.series["verdict"] == "regressed"].to_dict("records")
    if rows:
        row = max(rows, key=lambda one: float(one["effect"]))
        change = _newest(track, str(row[ID]))
        said = series.told(names[row[ID]], row, change["old"], change["new"]) if change else ""
        told.insert(0, KeyFigure("Worst regression", text.signed(row["effect"]), said, style="bad"))
    return told


def _newest(track: Track, name: str) -> Row:
    mine = track.changes[track.changes[ID] == name]
    return mine.iloc[-1].to_dict() if len(mine) else {}


def changed(track: Track, names: Mapping[str, Name]) -> Section:
    section = Section("changed", "What changed")
    if track.changes.empty:
        section.missing = "No change was found in any series."
        return section
    section.lead.append(
        "Newest first. A change that is known is acknowledged by its series' id: python -m harness "
        "acknowledge ID --why TEXT."
    )
    rows = [
        [
            Cell(names[row[ID]].metric, note=_where(names[row[ID]])),
            Cell(_day(row["time"]), _stamp(row["time"]), style="whole"),
            _effect(row),
            series.spread_cell(row["low"], row["high"]),
            words(series.commits(row["before_commit"], row["commit"])),
            _prose(_differs(row["environment"])),
            _prose(row["acknowledged"]),
            figure_cell(row["old"]),
            figure_cell(row["new"]),
            words(text.unit(row["unit"])),
            words(row[ID]),
        ]
        for row in reversed(track.changes.to_dict("records"))
        if row[ID] in names
    ]
    head = numbered(
        *("Figure", "First run", "#Worse by", "#95 %", "Commits", "Environment"),
        *("Acknowledged", "#Before", "#After", "Unit", "Series' id"),
    )
    caption = f"{text.count(len(rows), 'change')}, {series.host(track.runs)}"
    section.tables.append(Table(caption, head, rows))
    return section


def _prose(said: str) -> Cell:
    return Cell(said or text.NONE, said, style="prose")


def _effect(row: Row) -> Cell:
    style = "bad" if row["effect"] > 0 and not row["acknowledged"] else ""
    style = "good" if row["effect"] < 0 else style
    return Cell(text.signed(row["effect"]), float(row["effect"]), style=style)


def _where(name: Name) -> str:
    return ", ".join(filter(None, (name.hypervisor, name.workload)))


def _differs(found: Sequence[tuple[str, str, str]]) -> str:
    return "; ".join(f"{name}: {before} → {after}" for name, before, after in found)


def _moment(value: Any) -> datetime | None:
    moment = pd.to_datetime(value, errors="coerce", utc=True)
    return None if pd.isna(moment) else moment.to_pydatetime()


def _day(value: Any) -> str:
    moment = _moment(value)
    return f"{moment.day} {moment:%b %Y}" if moment else ""


def _stamp(value: Any) -> str:
    moment = _moment(value)
    return moment.isoformat() if moment else ""


def histories(track: Track) -> dict[str, History]:
    """Of each series, by its id."""
    places = {run.get("run", ""): at for at, run in enumerate(track.runs)}
    days = [_moment(run.get("start") or None) for run in track.runs]
    turns: dict[str, list[Turn]] = {}
    before: dict[str, float] = {}
    for row in track.changes.to_dict("records"):
        if row["run"] in places:
            one = Turn(places[row["run"]], row["effect"] > 0, float(row["new"]))
            turns.setdefault(str(row[ID]), []).append(one)
            before.setdefault(str(row[ID]), float(row["old"]))
    levels = dict(zip(track.series[ID], track.series["level"], strict=True))
    found = {}
    for name, mine in track.points.groupby(ID, sort=False):
        values = [math.nan] * len(places)
        for run, value in zip(mine["run"], mine["value"], strict=True):
            if run in places:
                values[places[run]] = float(value)
        key = str(name)
        level = before.get(key, float(levels.get(key, math.nan)))
        found[key] = History(values, days, level, turns.get(key, []))
    return found


def charts(track: Track, names: Mapping[str, Name], past: Mapping[str, History]) -> Section:
    section = Section("charts", "Regressed and improved")
    news = track.series[track.series["verdict"].isin(["regressed", "improved"])]
    if news.empty:
        section.missing = "Nothing regressed or improved."
        return section
    for row in news.head(MOST_CHARTS).to_dict("records"):
        name, one = names[row[ID]], past.get(row[ID])
        if one is None:
            continue
        caption = _caption(name, row, series.host(track.runs))
        detail = f"Level {text.quantity(row['level'], row['unit'])}, last "
        detail += f"{text.quantity(row['last'], row['unit'])}; {_turned(one)}"
        draw = history.chart(name.line, detail, one, str(row["unit"]))
        section.figures.append(figures.figure(caption, draw))
    left = len(news) - MOST_CHARTS
    if left > 0:
        section.notes.append(f"{left} more are in the table of all figures.")
    return section


def _caption(name: Name, row: Row, host: str) -> str:
    said = f"{name.line}: {row['verdict']}, {text.signed(row['effect'])}"
    interval = text.shares(row["low"], row["high"])
    if interval != text.NONE:
        said += f" (95 % interval {interval})"
    if commits := series.commits(row["before_commit"], row["commit"]):
        said += f", commits {commits}"
    said += f"; {text.count(int(row['n']), 'run')}, {host}"
    return f"{said}. Dots are runs, bars levels; the axis need not begin at 0."


def _turned(one: History) -> str:
    said = [
        f"{'worse' if turn.worse else 'better'} from {_day(one.days[turn.at]) or 'run'}"
        for turn in one.turns
    ]
    return ", ".join(said) or "no change"


def every(track: Track, names: Mapping[str, Name], past: Mapping[str, History]) -> Section:
    most = max(20, min(120, _SPARKS // max(len(track.series), 1)))
    differs = {row[ID]: _differs(row["environment"]) for row in track.changes.to_dict("records")}
    common = series.common(track.series)
    rows = []
    for row in track.series.to_dict("records"):
        row["flags"] = [flag for flag in row["flags"] if flag not in common]
        one = past.get(row[ID])
        rows.append(_row(row, names[row[ID]], one, differs.get(row[ID], ""), most))
    head = numbered(
        *("Figure", "~History", "Verdict", "#Worse by", "#95 %", "#Last", "#Level", "Unit"),
        *("#Spread", "#Runs", "Commits", "Environment", "Series' id"),
    )
    caption = f"{text.count(len(rows), 'figure')}, those that ask for attention first"
    notes = [f"All figures: {flag}." for flag in common]
    return Section("series", "All figures", tables=[Table(caption, head, rows)], notes=notes)


def _row(row: Row, name: Name, one: History | None, differs: str, most: int) -> list[Cell]:
    said = _turned(one) if one else "no values"
    drawing = history.spark(one.values, one.turns, said, most) if one else None
    return [
        name_cell(name.metric, row["flags"], _where(name)),
        Cell("", drawing=drawing),
        series.verdict_cell(row["verdict"]),
        series.effect_cell(row["effect"]),
        series.spread_cell(row["low"], row["high"]),
        figure_cell(row["last"]),
        figure_cell(row["level"]),
        words(text.unit(row["unit"])),
        Cell(text.percent(row["cv"]), float(row["cv"])),
        Cell(f"{row['n']:,}", float(row["n"])),
        words(series.commits(row["before_commit"], row["commit"])),
        _prose(differs if row["run"] else ""),
        words(row[ID]),
    ]
