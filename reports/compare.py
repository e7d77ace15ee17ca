"""The page of a comparison of two sets of runs."""

from __future__ import annotations

import math
from pathlib import Path

from harness.results.compare import SERIES, TOLERANCE, Comparison, format_counts
from harness.results.differences import MIN_EFFECT
from harness.results.schema import RunFacts
from harness.results.selection import NEWEST, RunSelection
from harness.results.statistics import reaches_confidence
from reports import figures, series, text
from reports.forest import Effect, forest
from reports.page import (
    CONFIDENT_INTERVAL,
    Cell,
    KeyFigure,
    Section,
    Table,
    columns,
    figure_cell,
    name_cell,
    text_cell,
)
from reports.render import Page, html, raw, write
from reports.series import Name, Row

MAX_EFFECTS = 30
METHOD = (
    ("What is compared", "Every figure that has a better direction, without utilization. The cost "
     "of an exit is the cost minus the empty loop of the same boot. A value is the median of the "
     "boots' medians: the unit of replication is the boot, not the batch."),
    ("Regressed, improved", "The difference is significant by the test below, over all figures "
     f"together, and it is above {text.whole_percent(MIN_EFFECT)}."),
    ("Pass", "No difference is shown, and the interval excludes a regression by "
     f"{text.whole_percent(TOLERANCE)}. Without such an interval there is no pass."),
    ("Not compared", "The base or the new run alone has the figure."),
    ("Inconclusive", "All other figures: too few boots or too much noise. Measure more boots, or "
     "measure both sides in turn on one host."),
    series.EFFECTS,
    series.SIGNIFICANCE,
    ("Environment", "Facts of the hosts, images and versions that differ between the runs. They "
     "may explain a difference, but they do not prove its cause."),
)  # fmt: skip


def render(comparison: Comparison, out: Path) -> Path:
    """Write the page, one file below 1 MiB.

    Raises ResultError when the file cannot be written; an existing file then stays as it is.
    """
    return write(to_html(comparison), out)


def to_html(comparison: Comparison) -> str:
    base, new = comparison.base, comparison.new
    labels = lasting_label(base), lasting_label(new)
    names = series.series_names(comparison.table)
    facts = [*base.facts, *new.facts]
    frame = comparison.table.assign(flags=comparison.table["flags"].map("; ".join))
    frame = frame[[*SERIES, *(name for name in frame.columns if name not in SERIES)]]
    page = Page(
        kind="Hypervisor comparison",
        title=f"{labels[1]} compared with {labels[0]}",
        name="comparison",
        sections=[
            effects_section(comparison, names),
            series.environment_section(comparison.environment, labels),
            figures_section(comparison, names),
            series.caveats_section(comparison.notes),
        ],
        keys=key_figures(comparison, names),
        method=METHOD,
        raw=raw(f"comparison-{base.names[-1]}-{new.names[-1]}", frame),
        warnings=series.warnings(facts, comparison.notes),
        tag="emulated" if series.any_emulated(facts) else "",
    )
    sides = [("Base", labels[0], describe(base)), ("New", labels[1], describe(new))]
    return html("compare.html", page, sides=sides, host=series.host_label(new.facts))


def label(side: RunSelection) -> str:
    """The selector of a side; for a file the name of its run."""
    return Path(side.label).stem if side.label.endswith(".parquet") else side.label


def lasting_label(side: RunSelection) -> str:
    """The label for a page, which is read when "latest" is another run."""
    return side.names[-1] if side.label in NEWEST else label(side)


def describe(side: RunSelection) -> str:
    """Runs, dates and commits of a side."""
    first, last = side.facts[0], side.facts[-1]
    dates = dict.fromkeys(text.date(run.get("start", "")) for run in (first, last))
    commits = dict.fromkeys(series.commit(run) for run in side.facts)
    more = f" and {len(commits) - 1} more" if len(commits) > 1 else ""
    runs = _run(last) if len(side.facts) == 1 else text.count(len(side.facts), "run")
    return f"{runs}, {' to '.join(dates)}, commit {next(iter(commits))}{more}"


def _run(facts: RunFacts) -> str:
    return f"run {facts.get('run', 'not known')}"


def key_figures(comparison: Comparison, names: list[Name]) -> list[KeyFigure]:
    """The number of each verdict, and the largest regression."""
    answers = series.verdict_figures(comparison.counts)
    rows = comparison.table.to_dict("records")
    regressions = [
        (row["effect"], name, row)
        for name, row in zip(names, rows, strict=True)
        if row["verdict"] == "regressed"
    ]
    if regressions:
        effect, name, row = max(regressions, key=lambda one: float(one[0]))
        sentence = series.change_sentence(name, row, row["base"], row["new"])
        answers.insert(
            0, KeyFigure("Largest regression", text.signed(effect), sentence, style="bad")
        )
    return answers


def effects_section(comparison: Comparison, names: list[Name]) -> Section:
    """A forest plot of the figures that are no pass."""
    section = Section("effects", "Effects")
    rows = comparison.table.to_dict("records")
    effects = [
        Effect(name.line, row["effect"], row["low"], row["high"], row["verdict"])
        for name, row in zip(names, rows, strict=True)
        if row["verdict"] != "pass" and math.isfinite(row["effect"])
    ]
    if not effects:
        section.placeholder = "There is nothing to draw: every figure that both sides have passes."
        return section
    drawn = effects[:MAX_EFFECTS]
    boots = [n for row in rows for n in (row["base_boots"], row["new_boots"]) if n]
    interval = CONFIDENT_INTERVAL if reaches_confidence(min(boots)) else "interval"
    caption = (
        f"Effect and {interval} of {text.count(len(drawn), 'figure')} without a pass; above 0 "
        f"is worse; {_boot_range(boots)} on each side; {series.host_label(comparison.new.facts)}"
    )
    if len(effects) > len(drawn):
        caption += f"; {len(effects) - len(drawn)} more are in the table"
    section.figures.append(figures.figure(caption, forest(caption, drawn)))
    return section


def _boot_range(boots: list[int]) -> str:
    low, high = min(boots), max(boots)
    return text.count(high, "boot") if low == high else f"{low} to {text.count(high, 'boot')}"


def figures_section(comparison: Comparison, names: list[Name]) -> Section:
    """The table of all figures."""
    labels = lasting_label(comparison.base), lasting_label(comparison.new)
    common = series.common_flags(comparison.table)
    rows = [
        _row(name, row, common)
        for name, row in zip(names, comparison.table.to_dict("records"), strict=True)
    ]
    interval = series.interval_column(comparison.table)
    head = columns(
        *("Figure", "Workload", "Hypervisor", "Verdict", "#Worse by", f"#{interval}"),
        *("#Base", "#New", "Unit", "Boots base, new"),
    )
    caption = f"All figures, regressions first: {format_counts(comparison.counts)}"
    section = Section("figures", "Figures", tables=[Table(caption, head, rows)])
    section.lead.append(f"Base is {labels[0]}, new is {labels[1]}. Above 0 % is worse.")
    section.notes += [f"All figures: {flag}." for flag in common]
    return section


def _row(name: Name, row: Row, common: list[str]) -> list[Cell]:
    return [
        name_cell(name.metric, [flag for flag in row["flags"] if flag not in common]),
        text_cell(name.workload),
        text_cell(name.hypervisor),
        series.verdict_cell(row["verdict"]),
        series.effect_cell(row["effect"]),
        series.effect_interval_cell(row["low"], row["high"]),
        figure_cell(row["base"]),
        figure_cell(row["new"]),
        text_cell(text.unit(row["unit"])),
        text_cell(f"{row['base_boots']}, {row['new_boots']}"),
    ]
