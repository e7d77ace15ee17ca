"""The figures that no other section shows: those of one hypervisor alone."""

from __future__ import annotations

import pandas as pd

from harness.results import statistics
from harness.results.schema import decode
from reports import text
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
from reports.side_by_side import GROUPS, ROW, common, groups
from reports.suite_sections import SPREAD

# have a section of their own
ELSEWHERE = rf"(boot|exit|io)\.|{statistics.UTILIZATION}"


def sections(run: Run) -> list[Section]:
    """One, or none where the others show everything."""
    figures = _figures(run)
    if figures.empty:
        return []
    made = Section("rest", "Other figures")
    made.lead.append("What fewer than two hypervisors have, and no section above shows.")
    for kind in groups(set(figures["kind"])):
        mine = figures[figures["kind"] == kind]
        for (hypervisor, backend, *_), table in mine.groupby(statistics.WHERE, dropna=False):
            title = f"{GROUPS.get(kind, kind)}: {where(str(hypervisor), str(backend))}"
            said = common(table)
            made.tables.append(_table(table, title, said))
            made.notes += [f"All of {title}: {flag}." for flag in said]
    return [made]


def _figures(run: Run) -> pd.DataFrame:
    """`summarise` of them, with kind: the first part of the metric's name."""
    others = run.frame[~run.frame["metric"].str.match(ELSEWHERE)]
    table = named(statistics.summarise(others))
    table = table[table.groupby(ROW)["hypervisor"].transform("nunique") < 2]
    return table.assign(kind=table["metric"].str.split(".").str[0])


def _table(table: pd.DataFrame, title: str, said: list[str]) -> Table:
    rows = [
        [
            name_cell(
                row["metric"].removeprefix(f"{row['kind']}."),
                [flag for flag in row["flags"] if flag not in said],
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
    head = numbered("Figure", "Workload", "Unit", "#Median", f"#{SPREAD}", "#n", "#Boots")
    return Table(title, head, rows)
