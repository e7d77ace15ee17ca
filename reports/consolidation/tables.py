"""The tables of the page: the answer, points, latency, memory, idle guests."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from harness.results import statistics
from harness.results.schema import Parameter, decode_parameters
from reports import text
from reports.consolidation import charts, hypervisors
from reports.consolidation.searches import PREFIX, Search
from reports.curves import NO_ANSWER
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


def answer(searches: list[Search]) -> Section:
    """The result of each search, the best hypervisor first."""
    section = Section("answer", "Servers on one host")
    section.lead += hypervisors.comparison(searches)
    section.figures.append(hypervisors.servers_figure(searches))
    rows = []
    for search in hypervisors.by_servers(searches):
        clones = search.text("knee", "deploy") == "clone"
        rows.append(
            [
                name_cell(search.label, ()),
                text_cell(search.text("knee", "tile")),
                text_cell("clones" if clones else "booted guests"),
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
        "Hypervisor", "Tile", "Servers are", "#Servers", "#Servers a core", "#Knee (tiles)",
        "#Lowest to highest", "#CPU busy at the knee (%)", "#CPUs without guests",
        "#CPUs an idle guest", "#CPUs for a CPU of work",
    )  # fmt: skip
    section.tables.append(Table("How many servers one host carries within all limits", head, rows))
    section.notes.append(
        "The last three columns fit busy = a + b x guests + c x work to all points: what the host "
        "needs without guests, for one more idle guest, and for one CPU of work in guests."
    )
    section.notes += filter(None, map(_power, searches))
    return section


def _power(search: Search) -> str:
    """The power at the knee; "" where the host does not count it."""
    loaded, idle = (search.at(search.whole_knee, "power", load=load) for load in ("full", "none"))
    if not math.isfinite(loaded + idle):
        return ""
    servers = search.whole_knee * len(search.guests)
    return (
        f"With {text.count(search.whole_knee, 'tile')} under {search.label} the CPU packages use "
        f"{text.number(loaded)} W, {text.number(loaded / servers)} W a server, and "
        f"{text.number(idle)} W without load."
    )


def points_table(search: Search) -> Table:
    """All points in their order, with the reason of each that did not pass."""
    has_pressure = bool((search.frame["metric"] == "pressure.cpu").any())
    rows = []
    for span in search.spans:
        at = search.frame[search.frame["batch"] == span.number]

        def value(metric: str, here: pd.DataFrame = at, load: str = "") -> float:
            chosen = here["metric"] == metric
            if load:
                chosen &= here["load"] == load
            values = here.loc[chosen, "value"]
            return float(values.iloc[0]) if len(values) else math.nan

        style = {"pass": "good", "fail": "bad"}.get(span.outcome, "soft")
        pressure = [figure_cell(value("pressure.cpu", load="full"))] if has_pressure else []
        rows.append(
            [
                Cell(f"{span.tiles:g}", span.tiles),
                Cell(span.outcome, span.outcome, style=f"outcome {style}"),
                Cell(span.reason or text.NONE, span.reason, style="prose"),
                figure_cell(value("score")),
                figure_cell(value("cpu.busy", load="full")),
                *pressure,
                figure_cell(value("cpu.guest_steal", load="full")),
                figure_cell(value("exits.exits")),
                figure_cell(value("exits.user_exits")),
                figure_cell(value("deploy")),
            ]
        )
    head = columns(
        *("#Tiles", "Verdict", "Reason", "#Score", "#CPU busy (% of one CPU)"),
        *(["#Pressure (PSI, %)"] if has_pressure else []),
        *("#Steal in guests (%)", "#Exits a request", "#Exits to the VMM a request"),
        "#Deployed in (s)",
    )
    return Table(f"All points in their order: {search.label}", head, rows)


def latency_table(search: Search) -> Table:
    """Medians over the points of a number of tiles, as the charts show them."""
    shown, _ = charts.shown_tiles(search)
    rows = []
    for guest in search.guests:
        limit, percentile = search.limit(guest), search.percentile(guest)
        parts = [search.by_tiles("latency", guest=guest, percentile=one) for one in (50, 99)]
        parts.append(search.by_tiles("latency.worst_guest", guest=guest))
        for tiles in shown:
            values = [float(part.get(tiles, math.nan)) for part in parts]
            if all(map(math.isnan, values)):
                continue
            rows.append(
                [
                    name_cell(guest, ()),
                    Cell(f"{tiles:g}", tiles),
                    *(_latency_cell(value) for value in values[:2]),
                    _latency_cell(values[2], flagged=values[2] > limit),
                    figure_cell(limit),
                    text_cell(text.percentile(percentile)),
                ]
            )
    head = columns(
        *("Guest", "#Tiles", "#p50 (ms)", "#p99 (ms)", "#Slowest guest (ms)", "#Limit (ms)"),
        "Limit is for",
    )
    return Table(f"Latency by number of tiles: {search.label}", head, rows)


def _latency_cell(value: float, flagged: bool = False) -> Cell:
    shown = NO_ANSWER if math.isinf(value) else text.number(value)
    return Cell(shown, value, flagged)


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
                    text_cell(_when(parameters)),
                    figure_cell(float(row["median"])),
                    text_cell(str(row["unit"])),
                ]
            )
        head = columns("Quantity", "#Guests", "When", "#Value", "Unit")
        label = target_label(str(hypervisor), str(backend))
        section.tables.append(Table(f"What idle servers cost: {label}", head, rows))
    return [section]


def _when(parameters: Mapping[str, Parameter]) -> str:
    """The conditions of a quantity in words."""
    words = (("ksm", "KSM {}"), ("seconds", "after {} s"))
    parts = [word.format(parameters[name]) for name, word in words if name in parameters]
    return ", ".join(parts) or text.NONE
