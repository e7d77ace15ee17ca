"""The hypervisors of a run side by side: every figure of each, and how much worse it is."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass
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

Pair = tuple[str, str]  # a hypervisor and what it is compared with


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
    found = _compared(run, _pairs(names), _twins(names))
    if found.unsteady:
        made.lead.append(
            "Warning: the same hypervisor, given twice, differed from itself in "
            f"{text.count(len(found.unsteady), 'figure')}: this host is not steady enough. Those "
            "are flagged, and nothing is concluded from them."
        )
    made.lead += [
        "Medians of the boots' medians. Above 0 % is worse than what it is compared with. What is "
        "called worse or better is not chance, by Mann and Whitney's test of the boots with a "
        f"bound of {differences.FALSE_DISCOVERIES:.0%} on false ones among all that pass it "
        f"(Benjamini-Hochberg), and it counts: it is above {differences.EFFECT:.0%} and above what "
        "a hypervisor that was given twice may differ from itself, the far end of that interval.",
        f"No difference: the whole interval is within {differences.EFFECT:.0%}. Inconclusive: too "
        "few boots, or too much noise, to tell.",
    ]
    kinds = figures["metric"].str.partition(".")[0]
    for kind in groups(set(kinds)):
        mine = figures[kinds == kind]
        if mine["hypervisor"].nunique() > 1:
            made.tables.append(_table(mine, found, names, GROUPS.get(kind, kind)))
            made.notes += [f"All of {GROUPS.get(kind, kind)}: {flag}." for flag in common(mine)]
    return made


def groups(kinds: set[str]) -> list[str]:
    """In the order of their tables: those of GROUPS, then what else there is."""
    return [*(kind for kind in GROUPS if kind in kinds), *sorted(kinds - set(GROUPS))]


def common(figures: pd.DataFrame) -> list[str]:
    """What is to be said of every figure is said once."""
    return sorted(set.intersection(*map(set, figures["flags"])))


def _figures(run: Run) -> pd.DataFrame:
    """One row a hypervisor and figure: ROW, hypervisor, median, flags."""
    plain = ~run.frame["metric"].str.match(rf"exit\.|{statistics.UTILIZATION}")
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


def _twins(names: list[str]) -> list[Pair]:
    """Hypervisors that were given twice: ("kvm-2", "kvm")."""
    pairs = [(name, _TWIN.sub("", name)) for name in names]
    return [(name, first) for name, first in pairs if first != name and first in names]


def _pairs(names: list[str]) -> list[Pair]:
    """What is compared: all with the baseline, machines with the first one, twins with theirs."""
    machines = [name for name in names if _TWIN.sub("", name) != BASELINE]
    pairs = [(name, BASELINE) for name in names if name != BASELINE and BASELINE in names]
    pairs += [(name, machines[0]) for name in machines[1:]]
    return list(dict.fromkeys([*pairs, *_twins(names)]))


@dataclass(frozen=True)
class _Compared:
    """rows: of each pair and figure what differences.overheads tells, with its verdict, by ROW and
    pair. unsteady: the figures, by ROW, in which a hypervisor differed from itself."""

    pairs: list[Pair]
    rows: dict[tuple[str, ...], dict[Hashable, Any]]
    unsteady: set[tuple[str, ...]]


def _compared(run: Run, pairs: list[Pair], twins: list[Pair]) -> _Compared:
    rows: list[dict[Hashable, Any]] = []
    for base in dict.fromkeys(base for _, base in pairs):
        sides = {base, *(name for name, its in pairs if its == base)}
        frame = run.frame[run.frame["hypervisor"].isin(sides)]
        table = run.overheads if base == BASELINE else differences.overheads(frame, base)
        rows += table[table["host_boots"] > 0].assign(base=base).to_dict("records")
    for row, floor in zip(rows, _floors(rows, twins), strict=True):
        row["floor"] = floor
    # twins are judged by themselves: among many true differences chance has more room
    columns = ("overhead", "p", "floor", "low", "high")
    for own in (True, False):
        mine = [row for row in rows if (_pair(row) in twins) is own]
        words = differences.verdicts(*([row[name] for row in mine] for name in columns))
        for row, word in zip(mine, words, strict=True):
            row["verdict"] = word
    differ = [row for row in rows if row["verdict"] in ("worse", "better")]
    unsteady = {_key(row) for row in differ if _pair(row) in twins}
    for row in rows:
        if _key(row) in unsteady:
            row["verdict"] = "inconclusive"
    return _Compared(pairs, {(*_key(row), *_pair(row)): row for row in rows}, unsteady)


def _key(row: dict[Hashable, Any]) -> tuple[str, ...]:
    """Which figure a row is of."""
    return tuple(str(row[name]) for name in ROW)


def _pair(row: dict[Hashable, Any]) -> Pair:
    return str(row["hypervisor"]), str(row["base"])


def _floors(rows: list[dict[Hashable, Any]], twins: list[Pair]) -> list[float]:
    """For each of the rows by how much a hypervisor that was given twice may differ from itself:
    the far end of the interval, as the difference itself may be small by chance; NaN where none
    was. What compares those two themselves has no floor."""
    floors: dict[tuple[str, ...], float] = {}
    for row in rows:
        if _pair(row) in twins:
            far = max(abs(row["low"]), abs(row["high"]))
            reach = far if math.isfinite(far) else abs(row["overhead"])
            floors[_key(row)] = max(floors.get(_key(row), 0.0), reach)
    return [math.nan if _pair(row) in twins else floors.get(_key(row), math.nan) for row in rows]


def _table(figures: pd.DataFrame, found: _Compared, names: list[str], title: str) -> Table:
    rows = []
    said = common(figures)
    names = [name for name in names if name in set(figures["hypervisor"])]
    pairs = [(name, base) for name, base in found.pairs if {name, base} <= {*names}]
    for key, group in figures.groupby(ROW, sort=False):
        metric, parameters, unit = map(str, key)
        medians = dict(zip(group["hypervisor"], group["median"], strict=True))
        if len(medians) < 2:
            continue
        setting = {k: v for k, v in decode(parameters).items() if k not in statistics.WORK}
        flags = sorted({flag for flags in group["flags"] for flag in flags} - set(said))
        if (metric, parameters, unit) in found.unsteady:
            flags.append("the same hypervisor differed from itself")
        row: list[Cell] = [name_cell(metric.partition(".")[2], flags), words(text.setting(setting))]
        row.append(words(text.unit(unit)))
        row += [figure_cell(medians.get(name, float("nan"))) for name in names]
        for pair in pairs:
            row += _overhead(found.rows.get((metric, parameters, unit, *pair)))
        rows.append(row)
    head = numbered(
        *("Figure", "Workload", "Unit", *(f"#{name}" for name in names)),
        *(
            label
            for name, base in pairs
            for label in (
                f"#{name} worse than {base} by",
                f"#{name} beside {base}, 95 %",
                f"{name} beside {base} is",
            )
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
