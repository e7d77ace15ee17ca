"""Other plans beside this one: what-ifs, and how much each assumption matters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from harness.planner.plan import Plan, Sensitivity, Variant
from reports import text
from reports.bars import Ranged, ranged
from reports.figures import Figure, figure
from reports.page import Cell, Section, Table, columns, text_cell
from reports.plan import amounts
from reports.plan.amounts import amount_cell, whole, whole_cell
from reports.tornado import Swing, tornado

MOST_BARS = 20
MOST_SWINGS = 12
_LABEL = 40


def what_if_section(plan: Plan) -> Section:
    """All variants side by side."""
    section = Section("what-ifs", "What if")
    if len(plan.variants) < 2:
        section.placeholder = (
            "No other case was planned. To see a growth of 20 % beside this plan, plan with "
            "--what-if grow=1.2."
        )
        return section
    section.lead.append(
        "Each case was planned anew, with one thing changed. Compare the hosts, the power and the "
        "cost of a year."
    )
    section.figures += _hosts_figure(plan.variants)
    section.tables.append(_variants_table(plan))
    return section


def _hosts_figure(variants: Sequence[Variant]) -> list[Figure]:
    rows = []
    for one in variants[:MOST_BARS]:
        bound = min(one.bound, one.hosts) if math.isfinite(one.bound) else one.hosts
        label = text.shortened(amounts.line(one.name), _LABEL)
        rows.append(Ranged(label, float(one.hosts), float(bound), float(one.hosts)))
    if not rows:
        return []
    said = "; ".join(f"{row.label}: {row.value:g} hosts, at least {row.low:g}" for row in rows)
    caption = (
        "Hosts of each case. The line at the end of a bar begins at the bound: no plan has fewer."
    )
    return [figure(caption, ranged("Hosts of each case", said, rows, "hosts"))]


def _variants_table(plan: Plan) -> Table:
    rows = []
    for one in plan.variants:
        difference = one.hosts - plan.after.hosts
        sign = f"+{difference:,}" if difference > 0 else whole(difference)
        rows.append(
            [
                Cell(amounts.line(one.name) or text.NONE, note=amounts.line(one.note)),
                whole_cell(one.hosts),
                Cell(sign, float(difference)),
                whole_cell(one.bound),
                whole_cell(one.racks),
                amount_cell(one.kw),
                amount_cell(one.kwh / 1000),
                amount_cell(one.kg_co2 / 1000),
                amount_cell(one.cost),
            ]
        )
    head = columns(
        *("Case", "#Hosts", "#Difference", "#No fewer than", "#Racks", "#Power (kW)"),
        *("#Electricity a year (MWh)", "#CO₂ a year (t)"),
        f"#Cost a year ({amounts.line(plan.currency)})",
    )
    return Table("Cases side by side", head, rows)


def sensitivity_section(plan: Plan) -> Section:
    """The tornado."""
    section = Section("sensitivity", "What the result depends on")
    if not plan.tornado:
        section.placeholder = "No assumption was varied."
        return section
    section.lead.append(
        "Each assumption was set to a low and to a high value, one at a time. A long bar is an "
        "assumption worth checking first. A short one hardly matters."
    )
    groups = {
        unit: sorted((one for one in plan.tornado if one.unit == unit), key=_span, reverse=True)
        for unit in dict.fromkeys(one.unit for one in plan.tornado)
    }
    for unit, group in groups.items():
        section.figures += _tornado_figure(amounts.line(unit), group)
    section.tables.append(_tornado_table([one for group in groups.values() for one in group]))
    return section


def _span(one: Sensitivity) -> float:
    """How far the result moves; 0 where that is unknown."""
    ends = _finite([one.low, one.high, one.base])
    return max(ends) - min(ends) if ends else 0.0


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _drawable(group: Sequence[Sensitivity]) -> Iterator[Swing]:
    for one in group:
        if len(_finite([one.low, one.high])) == 2:
            label = text.shortened(amounts.line(one.name), _LABEL)
            low, high = amounts.line(one.low_value), amounts.line(one.high_value)
            yield Swing(label, low, high, one.low, one.high)


def _tornado_figure(unit: str, group: Sequence[Sensitivity]) -> list[Figure]:
    swings = list(_drawable(group))[:MOST_SWINGS]
    base = next(iter(_finite([one.base for one in group])), math.nan)
    if not swings or not math.isfinite(base):
        return []
    said = "; ".join(
        f"{one.label}: {text.number(one.low)} at {one.low_value}, {text.number(one.high)} at "
        f"{one.high_value}"
        for one in swings
    )
    plan = text.number(base, 2)
    title = f"What changes the result, in {unit}"
    caption = (
        f"{unit[:1].upper()}{unit[1:]}: the upright line is the plan ({plan}). Beside each bar are "
        "the values of the assumption."
    )
    return [figure(caption, tornado(title, said, swings, base, unit))]


def _tornado_table(swings: Sequence[Sensitivity]) -> Table:
    rows = [
        [
            text_cell(amounts.line(one.name)),
            text_cell(amounts.line(one.low_value)),
            amount_cell(one.low, digits=2),
            text_cell(amounts.line(one.high_value)),
            amount_cell(one.high, digits=2),
            amount_cell(_span(one), digits=2),
            text_cell(amounts.line(one.unit)),
        ]
        for one in swings
    ]
    head = columns(
        *("Assumption", "Low value", "#Result", "High value", "#Result then", "#Difference"),
        "Result in",
    )
    return Table("The result at both values of each assumption", head, rows)


def assumptions_section(plan: Plan) -> Section:
    """Every value that was not measured, with its source."""
    section = Section("assumptions", "Assumptions")
    if not plan.assumptions:
        section.placeholder = "The plan names no assumption."
        return section
    section.lead.append(
        "Values that were not measured in this data centre. Replace those that are only assumed "
        "by your own, the most important ones first."
    )
    rows = [
        [
            text_cell(amounts.line(one.name)),
            Cell(amounts.line(one.value) or text.NONE, style="prose"),
            Cell(
                amounts.line(one.source) or text.NONE,
                flagged=one.source.strip().casefold() == "assumed",
                style="prose",
            ),
        ]
        for one in plan.assumptions
    ]
    head = columns("Assumption", "Value", "Source")
    section.tables.append(Table("Assumptions with their sources", head, rows))
    return section
