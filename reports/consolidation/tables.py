"""The tables of the page: the answer, points, memory, neighbours, idle guests."""

from __future__ import annotations

import math

import pandas as pd

from harness.results import statistics
from harness.results.schema import decode_parameters
from reports import text
from reports.consolidation.searches import PREFIX, Search
from reports.page import (
    Cell,
    Run,
    Section,
    Table,
    columns,
    count_cell,
    figure_cell,
    interval_cell,
    name_cell,
    target_label,
    text_cell,
)

# worse than this ratio is highlighted among the neighbours
STRONG_NEIGHBOUR = 2.0


def answer(searches: list[Search]) -> Section:
    section = Section("answer", "Servers on one host")
    rows = []
    for search in searches:
        deploy = search.frame.loc[search.frame["metric"] == "knee", "deploy"].iloc[0]
        tile = search.frame.loc[search.frame["metric"] == "knee", "tile"].iloc[0]
        rows.append(
            [
                name_cell(search.label, ()),
                text_cell(str(tile)),
                text_cell("clones" if deploy == "clone" else "booted guests"),
                figure_cell(search.value("servers_per_host")),
                figure_cell(search.value("servers_per_core")),
                figure_cell(search.knee),
                interval_cell(*search.band),
                figure_cell(search.value("knee.utilization")),
                figure_cell(search.value("fit.base")),
                figure_cell(search.value("fit.guest")),
                figure_cell(search.value("fit.demand")),
            ]
        )
    head = columns(
        "Hypervisor", "Tile", "Servers are", "#Servers", "#Servers a CPU", "#Knee (tiles)",
        "#Lowest to highest", "#CPU busy at the knee (%)", "#CPUs without guests",
        "#CPUs an idle guest", "#CPUs for a CPU of work",
    )  # fmt: skip
    section.tables.append(Table("How many servers one host carries within all limits", head, rows))
    section.notes.append(
        "The last three columns fit busy = a + b x guests + c x work to all points: what the host "
        "needs without guests, for one more idle guest, and for one CPU of work in guests."
    )
    return section


def points_table(search: Search) -> Table:
    rows = []
    points = search.frame[search.frame["metric"] == "point"].sort_values("batch")
    for row in points.to_dict("records"):
        at = search.frame[search.frame["batch"] == row["batch"]]

        def value(metric: str, here: pd.DataFrame = at, **parameters: str) -> float:
            chosen = here["metric"] == metric
            for name, wanted in parameters.items():
                chosen &= here[name] == wanted
            values = here.loc[chosen, "value"]
            return float(values.iloc[0]) if len(values) else math.nan

        outcome = str(row["outcome"])
        style = {"pass": "good", "fail": "bad"}.get(outcome, "soft")
        rows.append(
            [
                Cell(f"{row['tiles']:g}", float(row["tiles"])),
                Cell(outcome, outcome, style=f"verdict {style}"),
                figure_cell(value("score")),
                figure_cell(value("cpu.busy", load="full")),
                figure_cell(value("cpu.guest_steal", load="full")),
                figure_cell(value("exits.exits")),
                figure_cell(value("exits.user_exits")),
                figure_cell(value("deploy")),
            ]
        )
    head = columns(
        "Tiles", "Verdict", "#Score", "#CPU busy (%)", "#Steal in guests (%)", "#Exits a request",
        "#Exits to the VMM a request", "#Deployed in (s)",
    )  # fmt: skip
    return Table(f"All points in their order: {search.label}", head, rows)


def memory_table(search: Search) -> Table:
    rows = []
    for guest in search.guests:
        values = search.by_tiles("memory", guest=guest, load="full")
        cpu = search.by_tiles("cpu.guest", guest=guest, load="full")
        if not len(values):
            continue
        rows.append(
            [
                name_cell(guest, ()),
                figure_cell(float(values.iloc[0])),
                figure_cell(float(values.iloc[-1])),
                figure_cell(float(cpu.iloc[0])),
                figure_cell(float(cpu.iloc[-1])),
            ]
        )
    head = columns(
        "Guest", "#MiB, fewest tiles", "#MiB, most tiles", "#CPU (%), fewest", "#CPU (%), most"
    )
    return Table(f"Host memory and CPU of one guest: {search.label}", head, rows)


def neighbour_sections(run: Run) -> list[Section]:
    frame = run.frame[run.frame["metric"] == f"{PREFIX}neighbour.ratio"]
    if frame.empty:
        return []
    section = Section("neighbours", "Busy neighbours")
    section.lead.append(
        "How many times longer a server's p99 latency becomes beside a neighbour that uses one "
        "resource as much as it can. 1 is no effect."
    )
    for (hypervisor, backend), group in frame.groupby(["hypervisor", "backend"], observed=True):
        known = [decode_parameters(str(one)) for one in group["parameters"]]
        table = pd.DataFrame(known).assign(value=group["value"].to_numpy())
        matrix = table.pivot_table("value", "victim", "aggressor", aggfunc="median", sort=False)
        rows = [
            [
                name_cell(str(victim), ()),
                *(Cell(text.number(v, 2), float(v), flagged=v >= STRONG_NEIGHBOUR) for v in values),
            ]
            for victim, values in zip(matrix.index, matrix.to_numpy(), strict=True)
        ]
        head = columns("Server", *(f"#{name}" for name in matrix.columns))
        caption = f"Ratio of p99 beside a neighbour: {target_label(str(hypervisor), str(backend))}"
        section.tables.append(Table(caption, head, rows))
    return [section]


def idle_sections(run: Run) -> list[Section]:
    names = run.frame["metric"].astype(str)
    frame = run.frame[names.str.match(rf"{PREFIX}(idle|density)\.")]
    if frame.empty:
        return []
    section = Section("idle", "Idle servers")
    for (hypervisor, backend), group in frame.groupby(["hypervisor", "backend"], observed=True):
        table = statistics.summarise(group)
        rows = []
        for row in table.to_dict("records"):
            parameters = decode_parameters(str(row["parameters"]))
            rows.append(
                [
                    name_cell(str(row["metric"]).removeprefix(PREFIX), ()),
                    count_cell(int(parameters.get("guests", 0))),
                    figure_cell(float(row["median"])),
                    text_cell(str(row["unit"])),
                ]
            )
        head = columns("Quantity", "#Guests", "#Value", "Unit")
        label = target_label(str(hypervisor), str(backend))
        section.tables.append(Table(f"What idle servers cost: {label}", head, rows))
    return [section]
