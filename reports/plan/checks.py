"""What was checked about a plan: each failure, and later data."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.planner.plan import Backtest, Failure, Plan
from reports import text
from reports.page import Cell, KeyFigure, Section, Table, columns, text_cell
from reports.plan import amounts
from reports.plan.amounts import share, share_cell, whole, whole_cell

MOST_FAILURES = 15
MOST_NAMES = 5  # of machines in a cell


def failures_section(plan: Plan) -> Section:
    """The worst failures first."""
    section = Section("failures", "If a host or a rack fails")
    if not plan.failures:
        section.placeholder = (
            "No failure was tried. To keep room for one failed host and to try each, plan with "
            "--spare 1."
        )
        return section
    section.lead.append(
        "Each host or rack was taken away in turn, and its machines were placed on the hosts that "
        f"remain. {_verdict(plan.failures)}"
    )
    section.notes.append(
        "The fullest other host is the one with the highest load after the failure, as a share of "
        "what hosts may use while others have failed."
    )
    worst = sorted(plan.failures, key=_severity, reverse=True)
    section.tables.append(_failures_table(worst[:MOST_FAILURES]))
    hidden = len(worst) - MOST_FAILURES
    if hidden > 0:
        section.notes.append(
            f"{text.count(hidden, 'milder failure')} {'is' if hidden == 1 else 'are'} not shown. "
            "The file of failures has all."
        )
    return section


def _severity(one: Failure) -> tuple[int, float]:
    return len(one.unplaced), one.worst_peak if math.isfinite(one.worst_peak) else -1.0


def _bad(failures: Sequence[Failure]) -> list[Failure]:
    return [one for one in failures if one.unplaced]


def _verdict(failures: Sequence[Failure]) -> str:
    bad = _bad(failures)
    if not bad:
        cases = "the only case" if len(failures) == 1 else f"all {len(failures):,} cases"
        return f"In {cases} every machine found a host."
    most = max(len(one.unplaced) for one in bad)
    return (
        f"In {len(bad):,} of {text.count(len(failures), 'case')} some machines found no host, at "
        f"most {most:,} at once."
    )


def _failures_table(failures: Sequence[Failure]) -> Table:
    rows = []
    for one in failures:
        style = "outcome bad" if one.unplaced else "outcome good"
        label = "machines without a host" if one.unplaced else "all placed"
        rows.append(
            [
                text_cell(amounts.name(one.failed)),
                Cell(label, style=style),
                whole_cell(one.machines),
                whole_cell(len(one.unplaced)),
                Cell(amounts.names(one.unplaced, MOST_NAMES) or text.NONE, style="prose"),
                share_cell(one.worst_peak),
            ]
        )
    head = columns(
        *("Failed", "Result", "#Machines to place", "#Without a host", "Which"),
        "#Fullest other host",
    )
    return Table("The worst failures first", head, rows)


def backtest_section(plan: Plan) -> Section:
    """The plan against the part of the trace that it did not see."""
    section = Section("backtest", "Check on later data")
    back = plan.backtest
    if back is None:
        section.placeholder = (
            "There was no check on later data. It needs a trace that is long enough to plan on its "
            "first part and to check on the rest."
        )
        return section
    section.lead.append(
        f"A plan was made from the first {_days(back.planned_days)} of the trace alone: "
        f"{text.count(back.hosts, 'host')}. The next {_days(back.checked_days)} were then run "
        f"against it. {_backtest_words(back)}"
    )
    rows = [
        [
            text_cell(label),
            whole_cell(count),
            share_cell(_share(count, back), style=style),
        ]
        for label, count, style in (
            ("Checked", back.samples, ""),
            ("Above the target utilization", back.over_target, ""),
            ("Above the capacity", back.over_capacity, "bad" if back.over_capacity else "good"),
        )
    ]
    head = columns("Loads of one host at one time", "#Number", "#Share")
    section.tables.append(Table("Each host at each time of the later data", head, rows))
    section.notes.append(
        f"The fullest host reached {text.percent(back.worst)} of its real capacity. Above the "
        "target means that the reserve was used. Above the capacity means that machines had to "
        "wait."
    )
    return section


def _days(days: float) -> str:
    """Days without needless decimals: "21 days"."""
    if not math.isfinite(days):
        return f"{text.NONE} days"
    return "1 day" if days == 1 else f"{days:,.3g} days"


def _share(count: int, back: Backtest) -> float:
    return count / back.samples if back.samples > 0 else math.nan


def _backtest_words(back: Backtest) -> str:
    if not back.samples:
        return "The later data have no samples."
    if back.over_capacity:
        return (
            f"{share(_share(back.over_capacity, back))} of the loads were above the "
            "capacity of their host: this plan is too tight for later data."
        )
    if back.over_target:
        return (
            f"{share(_share(back.over_target, back))} of the loads were above the target, "
            "and none above the capacity: the reserve was enough."
        )
    return "No load was above the target."


def key_figures(plan: Plan) -> list[KeyFigure]:
    """The results of both checks."""
    keys = []
    if plan.failures:
        bad, count = len(_bad(plan.failures)), len(plan.failures)
        value = f"{whole(count - bad)} of {whole(count)}"
        words = "Failures of a host or a rack after which every machine finds a host"
        style = "bad" if bad else "good"
        keys.append(KeyFigure("Failures survived", value, words, style=style))
    if back := plan.backtest:
        words = (
            f"{_days(back.checked_days)} that a plan on the {_days(back.planned_days)} before had "
            f"not seen; {share(_share(back.over_target, back))} of the loads of hosts were "
            "above the target"
        )
        value = text.count(back.over_capacity, "overload") if back.over_capacity else "no overload"
        style = "bad" if back.over_capacity else "good"
        keys.append(KeyFigure("Check on later data", value, words, style=style))
    return keys
