"""The quality of the data: a page of its own after an import, and a section of the plan."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from harness.planner.plan import Plan
from harness.planner.trace import Finding, Import
from reports import text
from reports.page import Cell, KeyFigure, Section, Table, columns, text_cell
from reports.plan import amounts
from reports.plan.amounts import whole, whole_cell
from reports.render import Page, html, raw, write

SHORT_DAYS = 7.0
MOST_NAMES = 5  # of machines in a cell
MOST_LISTED = 40  # names of machines in a sentence
_DAY = 86_400.0

METHOD = (
    ("Warning", "Something that may make a plan wrong. Look at it before you plan."),
    ("Note", "Something that was detected or corrected, so that you can check it."),
    ("Gap", "A time without samples. A short gap is filled with the last value. A long gap stays "
     "empty: it never counts as no load."),
    ("Step", "The usual time between two samples of a machine."),
    ("Without a trace", "The source names the machine, but has no load of it. A plan gives it all "
     "that is allocated to it."),
)  # fmt: skip


def render(imported: Import, out: Path, data: str) -> Path:
    """Write the page of an import. data: the name of the data folder. Raises ResultError."""
    return write(to_html(imported, data), out)


def to_html(imported: Import, data: str) -> str:
    """The page of an import as text."""
    name = f"data {amounts.name(data)}"
    frame = pd.DataFrame(
        [
            (one.code, one.severity, one.sentence, one.count, "; ".join(one.machines))
            for one in _ordered(imported)
        ],
        columns=["code", "severity", "sentence", "count", "machines"],
    )
    page = Page(
        kind="Data quality",
        title=_title(imported),
        name=name,
        sections=[_findings_section(imported), _sources_section(imported)],
        keys=key_figures(imported),
        method=METHOD,
        raw=raw(name, frame),
        warnings=_banners(imported),
    )
    return html(
        "plan.html",
        page,
        subs=[f"Data: {amounts.line(data)} · {_period(imported)}"],
        rows=f"All {text.count(len(frame), 'finding')}, one in each row",
        elsewhere="The file import.json in the data folder has all.",
        footer=f"Data: {amounts.line(data)}.",
    )


def _title(imported: Import) -> str:
    count = text.count(imported.machines, "machine")
    return f"{count}, {_length(imported)} of data, {text.count(_warnings(imported), 'warning')}"


def _warnings(imported: Import) -> int:
    return sum(one.severity == "warning" for one in imported.findings)


def _days(imported: Import) -> float:
    return (imported.end - imported.start) / _DAY


def _length(imported: Import) -> str:
    days = _days(imported)
    if not math.isfinite(days) or days <= 0:
        return "no time"
    return f"{days * 24:,.2g} hours" if days < 1 else f"{days:,.3g} days"


def _period(imported: Import) -> str:
    """First and last day in words."""
    moments = imported.start, imported.end - 1  # a last interval that ends at midnight
    try:
        first, last = (datetime.fromtimestamp(moment, UTC) for moment in moments)
    except (ValueError, OverflowError, OSError):
        return "times not known"
    return f"{first.day} {first:%b %Y} to {last.day} {last:%b %Y}, UTC"


def _banners(imported: Import) -> list[str]:
    if imported.with_trace and _days(imported) < SHORT_DAYS:
        return [
            f"The data cover only {_length(imported)}. A plan needs a whole week or more: load "
            "differs between days."
        ]
    return []


def key_figures(imported: Import) -> list[KeyFigure]:
    """Machines, time, samples and warnings."""
    without = imported.machines - imported.with_trace
    warnings = _warnings(imported)
    step = text.time(imported.step, "s") if imported.step < 60 else _minutes(imported.step)
    return [
        KeyFigure(
            "Machines",
            whole(imported.machines),
            f"{imported.with_trace:,} have a trace of their load; {without:,} have none",
        ),
        KeyFigure("Time covered", _length(imported), f"{_period(imported)}, every {step}"),
        KeyFigure(
            "Samples",
            whole(imported.samples),
            f"from {text.count(len(imported.sources), 'source')}",
        ),
        KeyFigure(
            "Warnings",
            whole(warnings),
            "Look at them before you plan" if warnings else "Nothing speaks against a plan",
            style="bad" if warnings else "good",
        ),
    ]


def _minutes(seconds: float) -> str:
    if not math.isfinite(seconds):
        return text.NONE
    return f"{seconds / 60:,.3g} min" if seconds < 3600 else f"{seconds / 3600:,.3g} h"


def _ordered(imported: Import) -> list[Finding]:
    """Warnings first, then by their number."""
    return sorted(imported.findings, key=lambda one: (one.severity != "warning", -one.count))


def _findings_section(imported: Import) -> Section:
    section = Section("findings", "Findings")
    if not imported.findings:
        section.placeholder = "Nothing is wrong with the data."
        return section
    section.tables.append(findings_table(imported))
    return section


def findings_table(imported: Import) -> Table:
    """What was found, and what was done with it."""
    rows = [
        [
            Cell(one.severity, style="outcome bad" if one.severity == "warning" else ""),
            Cell(amounts.line(one.sentence), style="prose"),
            whole_cell(one.count) if one.count else Cell(text.NONE, math.nan),
            Cell(amounts.names(one.machines, MOST_NAMES) or text.NONE, style="prose"),
            text_cell(amounts.line(one.code)),
        ]
        for one in _ordered(imported)
    ]
    head = columns("Severity", "What was found and done", "#Number", "Machines", "Code")
    return Table("Findings about the data, warnings first", head, rows)


def _sources_section(imported: Import) -> Section:
    section = Section("sources", "Sources")
    if not imported.sources:
        section.placeholder = "The data name no source."
        return section
    section.lead.append(
        "The files that were read. Columns and units were detected. Check that they are right."
    )
    section.tables.append(_sources_table(imported))
    return section


def _sources_table(imported: Import) -> Table:
    rows = [
        [
            text_cell(amounts.line(one.path)),
            text_cell(amounts.line(one.format)),
            whole_cell(one.rows),
            Cell(" ".join(map(amounts.sentence, one.detected)) or text.NONE, style="prose"),
            text_cell(amounts.line(one.sha256)[:12]),
        ]
        for one in imported.sources
    ]
    head = columns("Source", "Format", "#Rows", "Detected", "SHA-256 begins")
    return Table("Sources of the data", head, rows)


def section(plan: Plan, imported: Import | None) -> Section:
    """The quality of a plan's data. imported: None where the data folder is gone."""
    found = Section("quality", "Data quality")
    if imported is None:
        found.lead.append(
            f"The data folder {amounts.line(plan.data)} was not there when this page was made, "
            "so the findings of its import are missing."
        )
    else:
        found.lead.append(
            f"{text.count(imported.machines, 'machine')}, {imported.with_trace:,} of them with a "
            f"trace: {text.count(imported.samples, 'sample')} over {_length(imported)}, "
            f"{_period(imported)}."
        )
        if imported.findings:
            found.tables.append(findings_table(imported))
        if imported.sources:
            found.tables.append(_sources_table(imported))
    for names, words in (
        (plan.without_trace, "Planned by what is allocated to them, since they have no trace"),
        (plan.left_out, "Left out, since they are templates or powered off"),
    ):
        if names:
            count = text.count(len(names), "machine")
            found.notes.append(f"{words}: {count} ({amounts.names(names, MOST_LISTED)}).")
    return found
