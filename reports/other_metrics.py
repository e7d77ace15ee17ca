"""The metrics that no other section shows, because only one hypervisor has them."""

from __future__ import annotations

import pandas as pd

from harness.results import statistics
from harness.results.figure_names import variants
from reports import text
from reports.page import (
    Run,
    Section,
    Table,
    columns,
    count_cell,
    figure_cell,
    interval_cell,
    interval_heading,
    name_cell,
    names_as_text,
    target_label,
    text_cell,
    workload,
)
from reports.side_by_side import FIGURE, GROUPS, common_flags, ordered_groups

# metrics with a section of their own
OTHER_SECTIONS = rf"(boot|exit|io|consolidation)\.|{statistics.UTILIZATION}"


def sections(run: Run) -> list[Section]:
    """One section, or none when the other sections show all metrics."""
    metrics = _metrics(run)
    if metrics.empty:
        return []
    section = Section("other-metrics", "Other metrics")
    section.lead.append("Metrics that one hypervisor alone has and that no section above shows.")
    for group in ordered_groups(set(metrics["group"])):
        in_group = metrics[metrics["group"] == group]
        targets = in_group.groupby(statistics.TARGET, dropna=False)
        for (hypervisor, backend, *_), table in targets:
            title = f"{GROUPS.get(group, group)}: {target_label(str(hypervisor), str(backend))}"
            common = common_flags(table)
            section.tables.append(_table(table, title, common))
            section.notes += [f"All of {title}: {flag}." for flag in common]
    return [section]


def _metrics(run: Run) -> pd.DataFrame:
    """`summarise` of the metrics, with variant, and group: the first part of the metric's name."""
    others = run.frame[~run.frame["metric"].str.match(OTHER_SECTIONS)]
    table = names_as_text(statistics.summarise(others))
    table = table.assign(variant=variants(table))
    table = table[table.groupby(FIGURE)["hypervisor"].transform("nunique") < 2]
    return table.assign(group=table["metric"].str.split(".").str[0])


def own_metrics(frame: pd.DataFrame) -> pd.DataFrame:
    """`summarise` of the metrics of suites that are not this project's, in order of appearance."""
    groups = frame["metric"].str.split(".").str[0]
    own = frame[~groups.isin(GROUPS) & ~frame["metric"].str.match(OTHER_SECTIONS)]
    order = {name: place for place, name in enumerate(own["metric"].unique())}
    table = names_as_text(statistics.summarise(own))
    table = table.assign(variant=variants(table))
    return table.sort_values("metric", key=lambda names: names.map(order), kind="stable")


def _table(table: pd.DataFrame, title: str, common: list[str]) -> Table:
    rows = [
        [
            name_cell(
                row["metric"].removeprefix(f"{row['group']}."),
                [flag for flag in row["flags"] if flag not in common],
            ),
            text_cell(workload(row)),
            text_cell(text.unit(row["unit"])),
            figure_cell(row["median"]),
            interval_cell(row["low"], row["high"]),
            count_cell(row["n"]),
            count_cell(row["boots"]),
        ]
        for row in table.to_dict("records")
    ]
    interval = interval_heading(table["boots"])
    head = columns("Figure", "Workload", "Unit", "#Median", f"#{interval}", "#n", "#Boots")
    return Table(title, head, rows)
