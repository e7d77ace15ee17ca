"""The figures that no other section shows: those of one hypervisor alone."""

from __future__ import annotations

import pandas as pd

from harness.results import statistics
from harness.results.schema import decode
from reports import text
from reports.beside import GROUPS, ROW
from reports.page import (
    Run,
    Section,
    Table,
    figure_cell,
    interval_cell,
    name_cell,
    named,
    numbered,
    where,
    whole,
    words,
)

# have a section of their own
ELSEWHERE = rf"(boot|exit|io)\.|{statistics.UTILIZATION}"


def sections(run: Run) -> list[Section]:
    """One, or none where the others show everything."""
    figures = _figures(run)
    if figures.empty:
        return []
    made = Section("rest", "Other figures")
    made.lead.append("What fewer than two hypervisors have, and no section above shows.")
    for kind in sorted(set(figures["kind"]), key=_order):
        mine = figures[figures["kind"] == kind]
        for (hypervisor, backend, *_), table in mine.groupby(statistics.WHERE, dropna=False):
            title = f"{GROUPS.get(kind, kind)}: {where(hypervisor, backend)}"
            common = set.intersection(*map(set, table["flags"]))
            made.tables.append(_table(table, title, common))
            made.notes += [f"All of {title}: {flag}." for flag in sorted(common)]
    return [made]


def _figures(run: Run) -> pd.DataFrame:
    """`summarise` of them, with kind: the first part of the metric's name."""
    others = run.frame[~run.frame["metric"].str.match(ELSEWHERE)]
    table = named(statistics.summarise(others))
    table = table[table.groupby(ROW)["hypervisor"].transform("nunique") < 2]
    return table.assign(kind=table["metric"].str.split(".").str[0])


def _order(kind: str) -> tuple[int, str]:
    """As side by side."""
    known = list(GROUPS)
    return (known.index(kind) if kind in known else len(known), kind)


def _table(table: pd.DataFrame, title: str, common: set[str]) -> Table:
    rows = [
        [
            name_cell(
                row["metric"].removeprefix(f"{row['kind']}."),
                [flag for flag in row["flags"] if flag not in common],
            ),
            words(text.setting(decode(row["parameters"]))),
            words(text.unit(row["unit"])),
            figure_cell(row["median"]),
            interval_cell(row["low"], row["high"]),
            whole(row["n"]),
            whole(row["boots"]),
        ]
        for row in table.to_dict("records")
    ]
    head = numbered("Figure", "Workload", "Unit", "#Median", "#95 % interval", "#n", "#Boots")
    return Table(title, head, rows)
