"""The hosts of today beside those of the plan, and which hosts are freed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from harness.planner.plan import Fleet, Plan
from reports import text
from reports.bars import Panel, panels
from reports.figures import Bar, Figure, figure
from reports.page import Cell, KeyFigure, Section, Table, columns, text_cell
from reports.plan import amounts
from reports.plan.amounts import amount, amount_cell, whole, whole_cell

MOST_FREED = 20  # names of hosts in a sentence
MOST_TYPES = 50
ALL_COSTS = "Cost: all that is given"
DRAWN = ("Hosts", "Power", "CO₂", ALL_COSTS)
MONEY = {
    "Energy": "energy_cost",
    "Hardware": "hardware_cost",
    "Licences": "licence_cost",
    "Rack space": "rack_cost",
}


@dataclass(frozen=True)
class Quantity:
    """A row of the table. note: what is counted. less_is_better: a reduction is a gain."""

    label: str
    note: str
    unit: str
    of: Callable[[Fleet], float | None]
    is_count: bool = False
    less_is_better: bool = True


def _money_part(field: str, fleet: Fleet) -> float | None:
    value: float | None = getattr(fleet, field)
    return value


def given_costs(fleet: Fleet) -> dict[str, float]:
    """The costs of a year that somebody gave a price for, by their name."""
    costs = {label: _money_part(field, fleet) for label, field in MONEY.items()}
    return {label: cost for label, cost in costs.items() if cost is not None}


def cost(fleet: Fleet) -> float | None:
    """The cost of a year of what has a price."""
    return amounts.total(given_costs(fleet).values())


def comparable_cost(plan: Plan) -> bool:
    """Whether both sides have prices for the same things."""
    if plan.before is None:
        return False
    given = given_costs(plan.before).keys()
    return bool(given) and given == given_costs(plan.after).keys()


def quantities(currency: str) -> list[Quantity]:
    """All rows in their order."""
    rows = [
        Quantity("Hosts", "", "", lambda one: one.hosts, is_count=True),
        Quantity("CPU cores", "physical, not threads", "", lambda one: one.cores, is_count=True),
        Quantity("Memory", "installed", "GiB", lambda one: one.memory_gib, is_count=True),
        Quantity("Racks", "", "", lambda one: one.racks, is_count=True),
        Quantity("Rack units", "height of all hosts", "U", lambda one: one.rack_units, True),
        Quantity(
            *("CPU utilization", "mean over time and hosts", "%"),
            lambda one: 100 * one.cpu_utilization,
            less_is_better=False,
        ),
        Quantity("Power", "mean, with cooling (PUE)", "kW", lambda one: one.kw),
        Quantity("Electricity", "of a year, with cooling", "MWh", lambda one: one.kwh / 1000),
        Quantity("CO₂", "of a year, with making the hosts", "t", lambda one: one.kg_co2 / 1000),
    ]
    notes = {"Energy": "of a year", "Hardware": "of a year of its life"}
    rows += [
        Quantity(
            f"Cost: {label.lower()}",
            notes.get(label, "of a year"),
            currency,
            partial(_money_part, field),
        )
        for label, field in MONEY.items()
    ]
    return [*rows, Quantity(ALL_COSTS, "of a year", currency, cost)]


def section(plan: Plan) -> Section:
    """Before and after."""
    found = Section("before-after", "Before and after")
    if plan.before is None:
        found.lead.append(
            "The data name no hosts of today, so there is no comparison. These are the hosts that "
            "the plan needs."
        )
    else:
        found.lead.append(
            f"The same machines on the {plan.before.hosts:,} hosts of today and on the "
            f"{plan.after.hosts:,} hosts of the plan."
        )
        found.figures += _figure(plan, plan.before)
    found.tables += [_table(plan), *_types(plan)]
    found.notes += [*_freed(plan), *_money_notes(plan)]
    return found


def _table(plan: Plan) -> Table:
    rows = []
    for row in quantities(amounts.line(plan.currency)):
        after = row.of(plan.after)
        show = whole_cell if row.is_count else amount_cell
        label = Cell(row.label, row.label, note=row.note)
        unit = Cell(row.unit)
        cells = [label, _side(after, show), unit]
        if plan.before is not None:
            before = row.of(plan.before)
            compared = row.label != ALL_COSTS or comparable_cost(plan)
            change = _change(before, after) if compared else math.nan
            style = ""
            if row.less_is_better and abs(change) > 1e-9:
                style = "good" if change < 0 else "bad"
            sign = text.signed(change)
            cells = [label, _side(before, show), *cells[1:], Cell(sign, change, style=style)]
        rows.append(cells)
    head = ["Quantity", "#Plan", "Unit"]
    if plan.before is not None:
        head = ["Quantity", "#Today", "#Plan", "Unit", "#Change"]
    return Table("Hosts, energy and money of a year", columns(*head), rows)


def _side(value: float | None, show: Callable[[float], Cell]) -> Cell:
    return amount_cell(None) if value is None else show(value)


def _change(before: float | None, after: float | None) -> float:
    """The change as a share of today; NaN where it is unknown."""
    if before is None or after is None or not before:
        return math.nan
    return after / before - 1


def _figure(plan: Plan, before: Fleet) -> list[Figure]:
    """A panel for each quantity of DRAWN that both sides have."""
    drawn: list[Panel] = []
    said: list[str] = []
    for row in quantities(amounts.line(plan.currency)):
        today, planned = row.of(before), row.of(plan.after)
        wanted = row.label in DRAWN and (row.label != ALL_COSTS or comparable_cost(plan))
        if not wanted or today is None or planned is None or not math.isfinite(today + planned):
            continue
        bars = [Bar("today", {row.label: today}), Bar("plan", {row.label: planned})]
        show = whole if row.is_count else amount
        styles = {row.label: f"s{len(drawn) + 1}"}
        drawn.append(Panel(row.label, bars, row.unit, styles, show=show))
        said.append(f"{row.label} {show(today, row.unit)} today, {show(planned, row.unit)} planned")
    if not drawn:
        return []
    draw = panels("Today and the plan", "; ".join(said), drawn)
    caption = "Each pair of bars: today above, the plan below. CO₂ and costs are of a year."
    return [figure(caption, draw)]


def _types(plan: Plan) -> list[Table]:
    """How many hosts of each type are kept and bought."""
    hosts = Counter((host.type, host.existing) for host in plan.hosts)
    machines: Counter[str] = Counter()
    for host in plan.hosts:
        machines[host.type] += len(host.machines)
    if not machines:
        return []
    rows = [
        [
            text_cell(amounts.name(kind)),
            whole_cell(hosts[kind, True]),
            whole_cell(hosts[kind, False]),
            whole_cell(count),
        ]
        for kind, count in machines.most_common(MOST_TYPES)
    ]
    head = columns("Type of host", "#Hosts to keep", "#Hosts to buy", "#Machines on them")
    return [Table("Types of hosts in the plan", head, rows)]


def freed_hosts(plan: Plan) -> list[str]:
    """Hosts of today that machines leave and that the plan does not use, as far as moves say."""
    used = {host.name for host in plan.hosts}
    return sorted({move.source for move in plan.moves if move.source} - used)


def _freed(plan: Plan) -> list[str]:
    freed = freed_hosts(plan)
    if not freed:
        return []
    return [
        f"All machines leave {text.count(len(freed), 'host')}: "
        f"{amounts.names(freed, MOST_FREED)}. They can be switched off after the moves."
    ]


def _money_notes(plan: Plan) -> list[str]:
    given = given_costs(plan.after)
    absent = [label.lower() for label in MONEY if label not in given]
    notes = []
    if absent:
        notes.append(
            f"No price was given for: {', '.join(absent)}. The sum has only what was given."
        )
    if plan.before is not None and not comparable_cost(plan):
        notes.append("Today and the plan have prices for different things, so sums do not compare.")
    return notes


def key_figures(plan: Plan) -> list[KeyFigure]:
    """Hosts, and what the plan saves."""
    reason = amounts.sentence(plan.bound_reason)
    after, before = plan.after, plan.before
    if not math.isfinite(plan.bound):
        proof = "It is not known how few hosts would do."
    elif after.hosts <= plan.bound:
        proof = f"No plan can have fewer. {reason}"
    else:
        proof = f"No plan can have fewer than {whole(plan.bound)}. {reason}"
    keys = [KeyFigure("Hosts of the plan", whole(after.hosts), proof.strip())]
    if before is None:
        return [*keys, *_totals(plan)]
    freed = before.hosts - after.hosts
    change = text.signed(_change(before.hosts, after.hosts))
    label = "Hosts freed" if freed >= 0 else "More hosts than today"
    words = f"{change} of {before.hosts:,} hosts, {_less(before.racks, after.racks, 'racks')}"
    keys.append(KeyFigure(label, whole(abs(freed)), words, style="good" if freed > 0 else ""))
    saved = _less(before.kwh / 1000, after.kwh / 1000, "MWh")
    words = f"{amount(before.kw, 'kW')} today; {saved} of electricity a year, with cooling"
    keys.append(KeyFigure("Power", amount(after.kw, "kW"), words))
    return [*keys, *_cost_figure(plan, before), _co2_figure(plan, before)]


def _totals(plan: Plan) -> list[KeyFigure]:
    """Without hosts of today."""
    after = plan.after
    energy = f"{amount(after.kwh / 1000, 'MWh')} of electricity a year, with cooling"
    keys = [KeyFigure("Power", amount(after.kw, "kW"), energy)]
    if (money := cost(after)) is not None:
        currency = amounts.line(plan.currency)
        given = ", ".join(given_costs(after)).lower()
        keys.append(KeyFigure("Cost of a year", amount(money, currency), f"Counted: {given}"))
    return keys


def _cost_figure(plan: Plan, before: Fleet) -> list[KeyFigure]:
    today, planned = cost(before), cost(plan.after)
    if today is None or planned is None or not comparable_cost(plan):
        return []
    currency = amounts.line(plan.currency)
    given = ", ".join(given_costs(plan.after)).lower()
    label, style = ("Saved in a year", "good") if planned <= today else ("More cost a year", "bad")
    words = f"{amount(planned, currency)} instead of {amount(today)}. Counted: {given}"
    return [KeyFigure(label, amount(abs(today - planned), currency), words, style=style)]


def _co2_figure(plan: Plan, before: Fleet) -> KeyFigure:
    words = f"{amount(before.kg_co2 / 1000, 't')} today; with the making of the hosts"
    return KeyFigure("CO₂ of a year", amount(plan.after.kg_co2 / 1000, "t"), words)


def _less(before: float, after: float, unit: str) -> str:
    """A difference in words: "12 racks less"."""
    difference = after - before
    if not math.isfinite(difference):
        return f"{unit} not known"
    if difference == 0:
        return f"as many {unit}"
    shown = whole(abs(difference)) if unit == "racks" else amount(abs(difference))
    few = "fewer" if unit == "racks" else "less"
    return f"{shown} {unit} {few if difference < 0 else 'more'}"
