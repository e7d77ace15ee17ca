"""The hypervisors of a run side by side: every figure of each, and how much worse it is."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any

import pandas as pd

from harness.results import differences, statistics
from harness.results.schema import decode
from reports import text
from reports.page import (
    Cell,
    Run,
    Section,
    Table,
    figure_cell,
    name_cell,
    named,
    numbered,
    share,
    words,
)

BASELINE = "native"
# the first part of a metric's name: what its table is called
GROUPS = {
    "boot": "Boot",
    "exit": "Exits, control subtracted",
    "io": "Disk",
    "net": "Network",
    "memory": "Memory",
    "interrupts": "Interrupts",
    "scheduler": "Scheduler",
}
ROW = ["metric", "parameters", "unit"]
_TWIN = re.compile(r"-\d+$")


def section(run: Run) -> Section:
    """What at least two hypervisors were measured by."""
    made = Section("beside", "Side by side")
    figures = _figures(run)
    names = _names(run, figures)
    if len(names) < 2:
        made.missing = (
            "One hypervisor ran. Give --hypervisor more than once to see several side by side."
        )
        return made
    base = BASELINE if BASELINE in names else names[0]
    worse = _worse(run, base)
    made.lead.append(
        f"Medians of the boots' medians. Above 0 % is worse than {base}. What is called worse or "
        "better is not chance, by Mann and Whitney's test of the boots with a bound of "
        f"{differences.FALSE_DISCOVERIES:.0%} on false ones among all that pass it "
        f"(Benjamini-Hochberg), and it is above {differences.EFFECT:.0%} and above what a "
        "hypervisor that ran twice differed from itself. No difference: the whole interval is too "
        "small to count. Inconclusive: too few boots, or too much noise, to tell."
    )
    kinds = figures["metric"].str.partition(".")[0]
    for kind in [*GROUPS, *sorted(set(kinds) - set(GROUPS))]:
        mine = figures[kinds == kind]
        if mine["hypervisor"].nunique() > 1:
            made.tables.append(_table(mine, worse, names, base, GROUPS.get(kind, kind)))
            made.notes += [f"All of {GROUPS.get(kind, kind)}: {flag}." for flag in _common(mine)]
    return made


def _common(figures: pd.DataFrame) -> list[str]:
    """What is to be said of every figure is said once."""
    return sorted(set.intersection(*map(set, figures["flags"])))


def _figures(run: Run) -> pd.DataFrame:
    """One row a hypervisor and figure: ROW, hypervisor, median, flags."""
    plain = ~run.frame["metric"].str.match(r"(exit|host)\.")
    tables = [named(statistics.summarise(run.frame[plain]))]
    if len(run.costs):
        tables.append(run.costs[run.costs["kind"] == "ns"])
    columns = [*ROW, "hypervisor", "median", "flags"]
    return pd.concat([table[columns] for table in tables if len(table)] or [pd.DataFrame()])


def _names(run: Run, figures: pd.DataFrame) -> list[str]:
    """As they were given; the baseline first."""
    there = set(figures["hypervisor"]) if len(figures) else set()
    given = [name for name in run.facts.get("hypervisor", "").split(", ") if name in there]
    names = [*given, *sorted(there - set(given))]
    return sorted(names, key=lambda name: name != BASELINE)


def _worse(run: Run, base: str) -> dict[tuple[str, ...], dict[Hashable, Any]]:
    """The overhead of each figure and its verdict, by ROW and hypervisor."""
    table = run.overheads if base == BASELINE else differences.overheads(run.frame, base)
    table = table.assign(floor=_floors(run.frame, table, base))
    columns = ("overhead", "p", "floor", "low", "high")
    words = differences.verdicts(*(list(table[name]) for name in columns))
    judged = table.assign(verdict=words).to_dict("records")
    return {(*_key(row), str(row["hypervisor"])): row for row in judged}


def _key(row: dict[Hashable, Any]) -> tuple[str, ...]:
    """Which figure a row is of."""
    return tuple(str(row[name]) for name in ROW)


def _floors(frame: pd.DataFrame, rows: pd.DataFrame, base: str) -> list[float]:
    """By how much a hypervisor that ran twice ("kvm" and "kvm-2") differed from itself, for each of
    the rows; NaN where none did. What compares those two themselves has no floor."""
    names = set(frame["hypervisor"])
    twins = {name: _TWIN.sub("", name) for name in names}
    pairs = [(name, first) for name, first in twins.items() if first != name and first in names]
    floors: dict[tuple[str, ...], float] = {}
    for name, first in pairs:
        mine = frame[frame["hypervisor"].isin([name, first])]
        for row in differences.overheads(mine, first).to_dict("records"):
            if not math.isnan(row["overhead"]):
                effect = abs(float(row["overhead"]))
                floors[_key(row)] = max(effect, floors.get(_key(row), 0.0))
    return [
        float("nan") if (row["hypervisor"], base) in pairs else floors.get(_key(row), float("nan"))
        for row in rows.to_dict("records")
    ]


def _table(
    figures: pd.DataFrame,
    worse: dict[tuple[str, ...], dict[Hashable, Any]],
    names: list[str],
    base: str,
    title: str,
) -> Table:
    rows = []
    common = _common(figures)
    names = [name for name in names if name in set(figures["hypervisor"])]
    others = [name for name in names if name != base and base in names]
    for key, group in figures.groupby(ROW, sort=False):
        metric, parameters, unit = map(str, key)
        medians = dict(zip(group["hypervisor"], group["median"], strict=True))
        if len(medians) < 2:
            continue
        setting = {k: v for k, v in decode(parameters).items() if k not in statistics.WORK}
        flags = sorted({flag for flags in group["flags"] for flag in flags} - set(common))
        row: list[Cell] = [name_cell(metric.partition(".")[2], flags), words(text.setting(setting))]
        row.append(words(unit.replace("us", "µs")))
        row += [figure_cell(medians.get(name, float("nan"))) for name in names]
        for name in others:
            row += _overhead(worse.get((metric, parameters, unit, name)))
        rows.append(row)
    head = numbered(
        *("Figure", "Workload", "Unit", *(f"#{name}" for name in names)),
        *(
            label
            for name in others
            for label in (f"#{name} worse by", f"#{name}, 95 %", f"{name} is")
        ),
    )
    return Table(f"{title}: {', '.join(names)}", head, rows)


def _overhead(row: dict[Hashable, Any] | None) -> list[Cell]:
    low, high = (row["low"], row["high"]) if row else (float("nan"), float("nan"))
    return [
        share(
            row["overhead"] if row else float("nan"),
            flagged=row is not None and row["verdict"] == "inconclusive",
        ),
        Cell(text.span(low * 100, high * 100, "%"), low * 100),
        words(row["verdict"] if row else ""),
    ]
