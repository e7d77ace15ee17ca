"""The page of the history of all figures of a store."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from harness.results.change_points import MIN_AFTER
from harness.results.compare import SERIES, TOLERANCE
from harness.results.statistics import CONFIDENCE
from reports import figures, series, text, time_series
from reports.page import (
    Cell,
    KeyFigure,
    Section,
    Table,
    columns,
    figure_cell,
    name_cell,
    text_cell,
)
from reports.render import Page, Raw, html, raw, write
from reports.series import Name, Row
from reports.time_series import ChangeMark, TimeSeries

if TYPE_CHECKING:
    from harness.results.history import History

ID = "id"
MAX_CHARTS = 20
_MAX_SPARK_POINTS = 40_000  # of all sparklines together
MEANINGS = {
    "regressed": "worse since a change that is not acknowledged",
    "improved": "the newest change is recent and for the better",
    "inconclusive": "too few runs, too much noise, or not measured lately",
    "pass": "no recent change",
}
METHOD = (
    ("What is tracked", "Every figure that has a better direction, without utilization. A run "
     "gives one value: the median of the boots' medians. Each combination of CPU, backend and "
     "profile has its own series."),
    ("Changes", "A change is a split of a series by energy statistics (E-divisive), confirmed by a "
     "rank test with Benjamini and Hochberg's bound over all series of a night. The level is the "
     "median since the last change."),
    ("Regressed", "A change for the worse is not acknowledged and still holds: the level is worse "
     "than before the change."),
    ("Improved", "The newest change is recent and for the better."),
    ("Pass", f"There is no recent change, and the noise is small enough for a step of "
     f"{text.whole_percent(TOLERANCE)} to be visible within days."),
    ("Inconclusive", f"The series is too short or too noisy, it is not above 0, or none of the "
     f"newest {MIN_AFTER} runs has it."),
    ("Worse by", "The effect of the change behind the verdict, or else of the newest change. Above "
     "0 % is always worse. The interval is a bootstrap over the runs on both levels. It covers "
     f"{text.whole_percent(CONFIDENCE)} if each level has six runs or more, else less."),
    ("Commits, environment", "What differs between the last run before a change and the first run "
     "after it. It may explain the change, but it does not prove the cause."),
)  # fmt: skip


def render(history: History, out: Path) -> Path:
    """Write the page, one file below 1 MiB.

    Raises ResultError when the file cannot be written; an existing file then stays as it is.
    """
    return write(to_html(history), out)


def to_html(history: History) -> str:
    names = dict(zip(history.series[ID], series.series_names(history.series), strict=True))
    drawings = drawable_series(history)
    data, description = raw_values(history)
    page = Page(
        kind="Hypervisor figures over time",
        title=f"History of {text.count(len(history.runs), 'run')}",
        name="history",
        sections=[
            changes_section(history, names),
            charts_section(history, names, drawings),
            series_section(history, names, drawings),
            series.caveats_section(history.notes),
        ],
        keys=key_figures(history, names),
        method=METHOD,
        raw=data,
        warnings=series.warnings(history.runs, history.notes),
        tag="emulated" if series.any_emulated(history.runs) else "",
    )
    first, last = history.runs[0], history.runs[-1]
    dates = dict.fromkeys(text.date(run.get("start", "")) for run in (first, last))
    return html(
        "trend.html",
        page,
        dates=" to ".join(dates),
        rows=description,
        host=series.host_label(history.runs),
        last=last,
        commit=series.commit(last),
    )


def raw_values(history: History) -> tuple[Raw, str]:
    """The values for download, and a description of the rows.

    A row is one value, or a whole series when only that fits into the page.
    """
    points = history.points.assign(
        value=history.points["value"].map("{:.6g}".format),
        commit=history.points["commit"].map(series.short_commit),
    )
    data = raw("history", points[[ID, *SERIES, "run", "commit", "value", "n", "boots"]])
    if data.encoded:
        return data, "one row for each run and figure, with the number of samples and boots"
    table = points.pivot(index=[ID, *SERIES], columns="run", values="value").reset_index()
    return raw("history", table), "one row for each figure, one column for each run"


def key_figures(history: History, names: Mapping[str, Name]) -> list[KeyFigure]:
    """The number of each verdict, and the largest regression."""
    answers = series.verdict_figures(history.counts, MEANINGS)
    rows = history.series[history.series["verdict"] == "regressed"].to_dict("records")
    if rows:
        row = max(rows, key=lambda one: float(one["effect"]))
        change = _newest_change(history, str(row[ID]))
        sentence = ""
        if change:
            sentence = series.change_sentence(names[row[ID]], row, change["old"], change["new"])
        effect = text.signed(row["effect"])
        answers.insert(0, KeyFigure("Largest regression", effect, sentence, style="bad"))
    return answers


def _newest_change(history: History, name: str) -> Row:
    changes = history.changes[history.changes[ID] == name]
    return changes.iloc[-1].to_dict() if len(changes) else {}


def changes_section(history: History, names: Mapping[str, Name]) -> Section:
    """The table of all changes."""
    section = Section("changes", "Changes")
    if history.changes.empty:
        section.placeholder = "No series has a change."
        return section
    section.lead.append(
        "The newest change is first. To acknowledge a known change, run: python -m harness "
        "acknowledge ID --why TEXT."
    )
    rows = [
        [
            Cell(names[row[ID]].metric, note=_target(names[row[ID]])),
            Cell(_day(row["time"]), _iso_time(row["time"]), style="nowrap"),
            _effect_cell(row),
            series.effect_interval_cell(row["low"], row["high"]),
            text_cell(series.commit_range(row["previous_commit"], row["commit"])),
            _prose_cell(_differences(row["environment"])),
            _prose_cell(row["acknowledged"]),
            figure_cell(row["old"]),
            figure_cell(row["new"]),
            text_cell(text.unit(row["unit"])),
            text_cell(row[ID]),
        ]
        for row in reversed(history.changes.to_dict("records"))
        if row[ID] in names
    ]
    head = columns(
        *("Figure", "First run", "#Worse by", "#Interval", "Commits", "Environment"),
        *("Acknowledged", "#Before", "#After", "Unit", "Series id"),
    )
    caption = f"{text.count(len(rows), 'change')}, {series.host_label(history.runs)}"
    section.tables.append(Table(caption, head, rows))
    return section


def _prose_cell(prose: str) -> Cell:
    return Cell(prose or text.NONE, prose, style="prose")


def _effect_cell(row: Row) -> Cell:
    style = "bad" if row["effect"] > 0 and not row["acknowledged"] else ""
    style = "good" if row["effect"] < 0 else style
    return Cell(text.signed(row["effect"]), float(row["effect"]), style=style)


def _target(name: Name) -> str:
    return ", ".join(filter(None, (name.hypervisor, name.workload)))


def _differences(environment: Sequence[tuple[str, str, str]]) -> str:
    return "; ".join(f"{name}: {before} → {after}" for name, before, after in environment)


def _datetime(value: Any) -> datetime | None:
    moment = pd.to_datetime(value, errors="coerce", utc=True)
    return None if pd.isna(moment) else moment.to_pydatetime()


def _day(value: Any) -> str:
    moment = _datetime(value)
    return f"{moment.day} {moment:%b %Y}" if moment else ""


def _iso_time(value: Any) -> str:
    moment = _datetime(value)
    return moment.isoformat() if moment else ""


def drawable_series(history: History) -> dict[str, TimeSeries]:
    """The values and changes of each series, by its id."""
    places = {run.get("run", ""): index for index, run in enumerate(history.runs)}
    days = [_datetime(run.get("start") or None) for run in history.runs]
    marks: dict[str, list[ChangeMark]] = {}
    first_levels: dict[str, float] = {}
    for row in history.changes.to_dict("records"):
        if row["run"] in places:
            mark = ChangeMark(places[row["run"]], row["effect"] > 0, float(row["new"]))
            marks.setdefault(str(row[ID]), []).append(mark)
            first_levels.setdefault(str(row[ID]), float(row["old"]))
    levels = dict(zip(history.series[ID], history.series["level"], strict=True))
    drawings = {}
    for name, points in history.points.groupby(ID, sort=False):
        values = [math.nan] * len(places)
        for run, value in zip(points["run"], points["value"], strict=True):
            if run in places:
                values[places[run]] = float(value)
        key = str(name)
        level = first_levels.get(key, float(levels.get(key, math.nan)))
        drawings[key] = TimeSeries(values, days, level, marks.get(key, []))
    return drawings


def charts_section(
    history: History, names: Mapping[str, Name], drawings: Mapping[str, TimeSeries]
) -> Section:
    """A chart for each series that regressed or improved."""
    section = Section("charts", "Regressed and improved")
    changed = history.series[history.series["verdict"].isin(["regressed", "improved"])]
    if changed.empty:
        section.placeholder = "No figure regressed or improved."
        return section
    for row in changed.head(MAX_CHARTS).to_dict("records"):
        name, drawing = names[row[ID]], drawings.get(row[ID])
        if drawing is None:
            continue
        caption = _caption(name, row, series.host_label(history.runs))
        detail = f"Level {text.quantity(row['level'], row['unit'])}, last value "
        detail += f"{text.quantity(row['last'], row['unit'])}; {_change_summary(drawing)}"
        chart = time_series.chart(name.line, detail, drawing, str(row["unit"]))
        section.figures.append(figures.figure(caption, chart))
    hidden = len(changed) - MAX_CHARTS
    if hidden > 0:
        section.notes.append(f"{hidden} more are in the table of all figures.")
    return section


def _caption(name: Name, row: Row, host: str) -> str:
    caption = f"{name.line}: {row['verdict']}, {text.signed(row['effect'])}"
    interval = text.signed_interval(row["low"], row["high"])
    if interval != text.NONE:
        caption += f" (interval {interval})"
    if commits := series.commit_range(row["previous_commit"], row["commit"]):
        caption += f", commits {commits}"
    caption += f"; {text.count(int(row['n']), 'run')}, {host}"
    return f"{caption}. Dots are runs, lines are levels; the axis may not begin at 0."


def _change_summary(drawing: TimeSeries) -> str:
    changes = [
        f"{'worse' if change.worse else 'better'} from {_day(drawing.days[change.at]) or 'run'}"
        for change in drawing.changes
    ]
    return ", ".join(changes) or "no change"


def series_section(
    history: History, names: Mapping[str, Name], drawings: Mapping[str, TimeSeries]
) -> Section:
    """The table of all series."""
    max_points = max(20, min(120, _MAX_SPARK_POINTS // max(len(history.series), 1)))
    differences = {
        row[ID]: _differences(row["environment"]) for row in history.changes.to_dict("records")
    }
    common = series.common_flags(history.series)
    rows = []
    for row in history.series.to_dict("records"):
        row["flags"] = [flag for flag in row["flags"] if flag not in common]
        drawing, environment = drawings.get(row[ID]), differences.get(row[ID], "")
        rows.append(_row(row, names[row[ID]], drawing, environment, max_points))
    head = columns(
        *("Figure", "~History", "Verdict", "#Worse by", "#Interval", "#Last", "#Level", "Unit"),
        *("#Noise", "#Runs", "Commits", "Environment", "Series id"),
    )
    caption = f"{text.count(len(rows), 'figure')}, regressions first"
    notes = [f"All figures: {flag}." for flag in common]
    return Section("series", "All figures", tables=[Table(caption, head, rows)], notes=notes)


def _row(
    row: Row, name: Name, drawing: TimeSeries | None, environment: str, max_points: int
) -> list[Cell]:
    spark = None
    if drawing:
        label = _change_summary(drawing)
        spark = time_series.spark(drawing.values, drawing.changes, label, max_points)
    return [
        name_cell(name.metric, row["flags"], _target(name)),
        Cell("", drawing=spark),
        series.verdict_cell(row["verdict"]),
        series.effect_cell(row["effect"]),
        series.effect_interval_cell(row["low"], row["high"]),
        figure_cell(row["last"]),
        figure_cell(row["level"]),
        text_cell(text.unit(row["unit"])),
        Cell(text.percent(row["cv"]), float(row["cv"])),
        Cell(f"{row['n']:,}", float(row["n"])),
        text_cell(series.commit_range(row["previous_commit"], row["commit"])),
        _prose_cell(environment if row["run"] else ""),
        text_cell(row[ID]),
    ]
