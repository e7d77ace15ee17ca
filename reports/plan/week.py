"""The hours of the week: the demand of all machines, and the load of each host."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.planner.plan import Demand, Plan, PlannedHost
from harness.planner.trace import UNITS
from reports import curves, heat_map, text
from reports.curves import Chart, Curve
from reports.figures import Figure, figure
from reports.heat_map import HeatMap, Row
from reports.page import Cell, Column, Section, Table, columns, text_cell
from reports.plan import amounts
from reports.plan.amounts import DAYS, HOURS, amount, amount_cell, share_cell, whole_cell

MOST_ROWS = 60  # hosts with a row of their own in the heat map
MOST_HOSTS = 40  # in the table
# rows of the heat map for the hosts that have none of their own
BANDS = {
    "highest": 100.0,
    "3 of 4 are below": 75.0,
    "half are below": 50.0,
    "1 of 4 is below": 25.0,
    "lowest": 0.0,
}
METRIC_NAMES = {"cpu": "CPU", "memory": "Memory", "iops": "Disk operations", "network": "Network"}
_SCALES = {"memory": (1024.0, "GiB")}


def metric_name(metric: str) -> str:
    return METRIC_NAMES.get(metric) or amounts.name(metric)


def demand_section(plan: Plan) -> Section:
    """Demand beside allocation and capacity."""
    section = Section("demand", "Demand over the week")
    known = [one for one in plan.demand if amounts.busiest(one.hours)]
    if not known:
        section.placeholder = "The plan has no demand over time: no machine has a trace."
        return section
    section.lead.append(
        "What all machines together need in each hour of the week, beside what is allocated to "
        "them and what they may use on the hosts of the plan. Machines rarely need their most at "
        "the same time. The plan uses this."
    )
    section.figures += [_demand_figure(one) for one in known]
    section.tables.append(_demand_table(known))
    section.notes.append(
        "Usable is what the hosts have, without their own needs and without the reserve of the "
        "target utilization."
    )
    return section


def _busiest_hour(one: Demand) -> int:
    found = amounts.busiest(one.hours)
    return found[0] if found else 0


def _scaled(one: Demand) -> tuple[list[float], float, float, str]:
    """Hours, allocation and usable capacity in a unit for readers; NaN where it is not known."""
    factor, unit = _SCALES.get(one.metric, (1.0, UNITS.get(one.metric, "")))
    hours = [value / factor for value in amounts.week(one.hours)]
    allocated, usable = (
        level / factor if 0 < level < math.inf else math.nan
        for level in (one.allocated, one.usable)
    )
    return hours, allocated, usable, unit


def _demand_figure(one: Demand) -> Figure:
    hours, allocated, usable, unit = _scaled(one)
    name = metric_name(one.metric)
    points = [(float(at), value) for at, value in enumerate(hours) if not math.isnan(value)]
    drawn = [Curve("needed", points, "s1")]
    hour = _busiest_hour(one)
    said = [f"most needed {amount(hours[hour], unit)} on {amounts.hour_name(hour)}"]
    for label, level, style in (("allocated", allocated, "s2"), ("usable", usable, "s3")):
        if math.isfinite(level):
            drawn.append(Curve(label, [(0, level), (HOURS - 1, level)], style, dashed=True))
            said.append(f"{label} {amount(level, unit)}")
    title = f"{name}: demand over the week"
    chart = Chart(
        title=title,
        description="; ".join(said),
        curves=drawn,
        unit="",
        x_label="hour of the week, UTC",
        x_marks=[(24 * day + 12, label) for day, label in enumerate(DAYS)],
    )
    caption = f"{name} in {unit}: the highest sum over all machines in each hour of the week."
    return figure(caption, curves.draw(chart))


def _demand_table(known: Sequence[Demand]) -> Table:
    rows = []
    for one in known:
        hours, allocated, usable, unit = _scaled(one)
        hour = _busiest_hour(one)
        most = hours[hour]
        rows.append(
            [
                text_cell(metric_name(one.metric)),
                amount_cell(most),
                Cell(amounts.hour_name(hour), f"{hour:03}"),
                amount_cell(allocated),
                amount_cell(usable),
                text_cell(unit),
                share_cell(most / allocated),
                share_cell(most / usable),
            ]
        )
    head = columns(
        *("Resource", "#Most needed", "When (UTC)", "#Allocated", "#Usable", "Unit"),
        *("#Needed of allocated", "#Needed of usable"),
    )
    return Table("The busiest hour of the week, all machines together", head, rows)


def hosts_section(plan: Plan) -> Section:
    """The heat map of hosts, and their table."""
    section = Section("hosts", "Load of each host")
    hosts = sorted(plan.hosts, key=_busy, reverse=True)
    if not hosts:
        section.placeholder = "The plan has no hosts."
        return section
    section.lead.append(
        "Each row is a host, and each column is one of the 168 hours of the week. The colour is "
        "the highest CPU load of that hour, as a share of what machines may use on the host. At "
        "100 % a host is as full as the plan allows. Above it the reserve of the target "
        "utilization begins."
    )
    section.figures.append(_heat_figure(hosts))
    section.tables.append(_hosts_table(plan, hosts))
    if len(hosts) > MOST_HOSTS:
        section.notes.append(
            f"The table has the {MOST_HOSTS} busiest hosts. The file of hosts has all "
            f"{len(hosts):,}."
        )
    return section


def _busy(host: PlannedHost) -> float:
    found = amounts.busiest(host.hours)
    return found[1] if found else -1.0


def _heat_figure(hosts: Sequence[PlannedHost]) -> Figure:
    rows = [_host_row(host) for host in hosts[:MOST_ROWS]]
    rest = hosts[MOST_ROWS:]
    caption = (
        f"CPU load of {text.count(len(rows), 'host')} by hour of the week (UTC), busiest first."
    )
    if rest:
        caption = (
            f"CPU load by hour of the week (UTC): the {len(rows)} busiest hosts, and below them "
            f"the other {text.count(len(rest), 'host')} by quarters, hour by hour."
        )
    caption += " The number is the highest share of the week."
    heat = HeatMap(
        title="CPU load of each host by hour of the week",
        description=_heat_words(hosts),
        rows=rows,
        groups=DAYS,
        others=_bands(rest) if rest else (),
        others_title=f"The other {text.count(len(rest), 'host')}",
    )
    return figure(caption, heat_map.draw(heat))


def _heat_words(hosts: Sequence[PlannedHost]) -> str:
    words = [f"{text.count(len(hosts), 'host')}"]
    for label, host in (("busiest", hosts[0]), ("least busy", hosts[-1])):
        if found := amounts.busiest(host.hours):
            hour, share = found
            when = amounts.hour_name(hour)
            words.append(f"{label} {amounts.name(host.name)}: {text.percent(share)} on {when}")
    return "; ".join(words)


def _host_row(host: PlannedHost) -> Row:
    hours, found = amounts.week(host.hours), amounts.busiest(host.hours)
    label, count = amounts.name(host.name), text.count(len(host.machines), "machine")
    if not found:
        return Row(label, hours, text.NONE, f"{label}: {count}, load not known")
    hour, share = found
    tooltip = f"{label}: {count}, up to {text.percent(share)} on {amounts.hour_name(hour)} UTC"
    return Row(label, hours, text.percent(share), tooltip)


def _bands(hosts: Sequence[PlannedHost]) -> list[Row]:
    matrix: NDArray[np.float64] = np.array([amounts.week(host.hours) for host in hosts])
    known = matrix[~np.isnan(matrix).all(axis=1)]
    if not len(known):
        return []
    filled = np.nan_to_num(known)  # an hour without a value has no load
    rows = []
    for label, percentile in BANDS.items():
        hours = [float(one) for one in np.percentile(filled, percentile, axis=0)]
        most = text.percent(max(hours))
        rows.append(Row(label, hours, most, f"{label}, hour by hour: up to {most}"))
    return rows


def _hosts_table(plan: Plan, hosts: Sequence[PlannedHost]) -> Table:
    metrics = amounts.planned_metrics(plan)
    rows = []
    for host in hosts[:MOST_HOSTS]:
        hour, _ = amounts.busiest(host.hours) or (None, None)
        when = text.NONE if hour is None else amounts.hour_name(hour)
        rows.append(
            [
                Cell(amounts.name(host.name), style="nowrap"),
                text_cell(amounts.name(host.type)),
                text_cell(amounts.name(host.rack)),
                text_cell("keep" if host.existing else "buy"),
                whole_cell(len(host.machines)),
                *(share_cell(host.peak.get(metric, math.nan)) for metric in metrics),
                Cell(when, "" if hour is None else f"{hour:03}"),
                amount_cell(host.watts),
            ]
        )
    head: list[Column] = columns(
        *("Host", "Type", "Rack", "Keep or buy", "#Machines"),
        *(f"#{metric_name(metric)} peak" for metric in metrics),
        *("Busiest hour (UTC)", "#Power (W)"),
    )
    return Table("Hosts of the plan, busiest first; peaks are shares of what is usable", head, rows)
