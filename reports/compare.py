"""Two sets of runs side by side, as one HTML page."""

from __future__ import annotations

import math
from pathlib import Path

from harness.results.compare import SERIES, TOLERANCE, VERDICTS, Comparison
from harness.results.differences import EFFECT
from harness.results.schema import RunFacts
from harness.results.select import Selected
from reports import figures, series, text
from reports.forest import Effect, forest
from reports.page import (
    Cell,
    KeyFigure,
    Section,
    Table,
    figure_cell,
    name_cell,
    numbered,
    words,
)
from reports.render import Page, html, raw, write
from reports.series import Name, Row

MOST_EFFECTS = 30
METHOD = (
    ("What is compared", "Every figure that can become better or worse, but for the host's own "
     "utilization. Exits are costs less the empty loop of the same boot. A value is the median of "
     "the boots' medians: boots are what repeats, batches of one boot are not."),
    ("Regressed, improved", "The difference is no chance, by the test below over all figures "
     f"together, and it is above {text.percent(EFFECT)}."),
    ("Pass", f"No difference was shown, and the interval says that it is not worse by "
     f"{text.percent(TOLERANCE)}. Absence of proof alone is no pass."),
    ("Inconclusive", "All else: too few boots, too much noise, or measured on one side only. "
     "Measure more boots, or in turn on one host, to tell."),
    series.EFFECTS,
    series.CHANCE,
    ("Environment", "What the runs say of their hosts, images and versions. It tells what changed "
     "beside the code; it does not tell what was the cause."),
)  # fmt: skip


def render(comparison: Comparison, out: Path) -> Path:
    """Write the page of a comparison, one file below 1 MiB. Raises ResultError when it cannot be
    written; what was there before then stays."""
    return write(to_html(comparison), out)


def to_html(comparison: Comparison) -> str:
    base, new = comparison.base, comparison.new
    heads = label(base), label(new)
    names = series.names(comparison.table)
    facts = [*base.facts, *new.facts]
    frame = comparison.table.assign(flags=comparison.table["flags"].map("; ".join))
    frame = frame[[*SERIES, *(name for name in frame.columns if name not in SERIES)]]
    page = Page(
        kind="Hypervisor comparison",
        title=f"{heads[1]} compared with {heads[0]}",
        name="comparison",
        sections=[
            effects(comparison, names),
            series.environment(comparison.environment, heads),
            table(comparison, names),
            series.doubts(comparison.notes),
        ],
        keys=keys(comparison, names),
        method=METHOD,
        raw=raw(f"comparison-{base.names[-1]}-{new.names[-1]}", frame),
        warnings=series.warnings(facts, comparison.notes),
        tag="emulated" if series.emulated(facts) else "",
    )
    sides = [("Base", heads[0], about(base)), ("New", heads[1], about(new))]
    return html("compare.html", page, sides=sides, host=series.host(new.facts))


def label(side: Selected) -> str:
    """As it was asked for; of a file its run."""
    return Path(side.label).stem if side.label.endswith(".parquet") else side.label


def about(side: Selected) -> str:
    """Which runs a side is of."""
    first, last = side.facts[0], side.facts[-1]
    dates = dict.fromkeys(text.date(run.get("start", "")) for run in (first, last))
    commits = dict.fromkeys(series.commit(run) for run in side.facts)
    more = f" and {len(commits) - 1} more" if len(commits) > 1 else ""
    which = _run(last) if len(side.facts) == 1 else text.count(len(side.facts), "run")
    return f"{which}, {' to '.join(dates)}, commit {next(iter(commits))}{more}"


def _run(facts: RunFacts) -> str:
    return f"run {facts.get('run', 'not known')}"


def keys(comparison: Comparison, names: list[Name]) -> list[KeyFigure]:
    told = series.counted(comparison.counts)
    rows = comparison.table.to_dict("records")
    worst = [
        (row["effect"], name, row)
        for name, row in zip(names, rows, strict=True)
        if row["verdict"] == "regressed"
    ]
    if worst:
        effect, name, row = max(worst, key=lambda one: float(one[0]))
        sentence = series.told(name, row, row["base"], row["new"])
        told.insert(0, KeyFigure("Worst regression", text.signed(effect), sentence, style="bad"))
    return told


def effects(comparison: Comparison, names: list[Name]) -> Section:
    section = Section("effects", "Effects")
    rows = comparison.table.to_dict("records")
    shown = [
        Effect(name.line, row["effect"], row["low"], row["high"], row["verdict"])
        for name, row in zip(names, rows, strict=True)
        if row["verdict"] != "pass" and math.isfinite(row["effect"])
    ]
    if not shown:
        section.missing = "Nothing to be drawn: every figure that both sides have is a pass."
        return section
    drawn = shown[:MOST_EFFECTS]
    boots = [n for row in rows for n in (row["base_boots"], row["new_boots"]) if n]
    caption = (
        f"How much worse: effect and 95 % interval of {len(drawn)} figures that are no pass, "
        f"{_span(boots)} a side, {series.host(comparison.new.facts)}"
    )
    if len(shown) > len(drawn):
        caption += f"; {len(shown) - len(drawn)} more are in the table"
    section.figures.append(figures.figure(caption, forest(caption, drawn)))
    return section


def _span(boots: list[int]) -> str:
    least, most = min(boots), max(boots)
    return text.count(most, "boot") if least == most else f"{least} to {text.count(most, 'boot')}"


def table(comparison: Comparison, names: list[Name]) -> Section:
    heads = label(comparison.base), label(comparison.new)
    common = series.common(comparison.table)
    rows = [
        _row(name, row, common)
        for name, row in zip(names, comparison.table.to_dict("records"), strict=True)
    ]
    head = numbered(
        *("Figure", "Workload", "Hypervisor", "Verdict", "#Worse by", "#95 %"),
        *("#Base", "#New", "Unit", "Boots base, new"),
    )
    counts = comparison.counts
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    caption = f"All figures, those that ask for attention first: {said}"
    section = Section("figures", "Figures", tables=[Table(caption, head, rows)])
    section.lead.append(f"Base is {heads[0]}, new is {heads[1]}. Above 0 % is worse.")
    section.notes += [f"All figures: {flag}." for flag in common]
    return section


def _row(name: Name, row: Row, common: list[str]) -> list[Cell]:
    return [
        name_cell(name.metric, [flag for flag in row["flags"] if flag not in common]),
        words(name.workload),
        words(name.hypervisor),
        series.verdict_cell(row["verdict"]),
        series.effect_cell(row["effect"]),
        series.spread_cell(row["low"], row["high"]),
        figure_cell(row["base"]),
        figure_cell(row["new"]),
        words(text.unit(row["unit"])),
        words(f"{row['base_boots']}, {row['new_boots']}"),
    ]
