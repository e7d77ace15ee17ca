"""A plan on the terminal: the headline, before and after, the bound."""

# ruff: noqa: PLC0415 - rich is imported only when a plan is printed
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.commands.common import console

if TYPE_CHECKING:
    from harness.planner.plan import Fleet, Plan

_NOT_GIVEN = "not given"


def print_plan(plan: Plan) -> None:
    from rich.table import Table
    from rich.text import Text

    terminal = console()
    for banner in plan.banners:
        terminal.print(Text(f"! {banner}", style="yellow"))
    if plan.interrupted:
        terminal.print(Text("! Interrupted: this is the best plan so far.", style="yellow"))
    terminal.print(Text(plan.headline, style="bold"))
    fleets = [one for one in (plan.before, plan.after) if one is not None]
    table = Table()
    table.add_column("")
    for name in ("today", "plan")[-len(fleets) :]:
        table.add_column(name, justify="right")
    for label, show in _rows(plan.currency):
        table.add_row(label, *(show(one) for one in fleets))
    terminal.print(table)
    terminal.print(Text(_bound(plan)))
    if plan.backtest:
        terminal.print(Text(_backtest(plan)))
    for one in plan.variants[1:]:
        note = f" ({one.note})" if one.note else ""
        terminal.print(Text(f"{one.name}: {one.hosts} hosts, {one.kwh:,.0f} kWh a year{note}"))


def _rows(currency: str) -> list[tuple[str, Callable[[Fleet], str]]]:
    def money(value: float | None) -> str:
        return _NOT_GIVEN if value is None else f"{value:,.0f}"

    return [
        ("hosts", lambda one: f"{one.hosts:,}"),
        ("cores", lambda one: f"{one.cores:,.0f}"),
        ("memory, GiB", lambda one: f"{one.memory_gib:,.0f}"),
        ("racks", lambda one: f"{one.racks:,}"),
        ("rack units", lambda one: f"{one.rack_units:,.0f}"),
        ("CPU utilization", lambda one: f"{one.cpu_utilization:.1%}"),
        ("power, kW", lambda one: f"{one.kw:,.1f}"),
        ("energy, kWh a year", lambda one: f"{one.kwh:,.0f}"),
        ("CO2, t a year", lambda one: f"{one.kg_co2 / 1000:,.1f}"),
        (f"energy, {currency} a year", lambda one: money(one.energy_cost)),
        (f"hardware, {currency} a year", lambda one: money(one.hardware_cost)),
        (f"licences, {currency} a year", lambda one: money(one.licence_cost)),
        (f"rack space, {currency} a year", lambda one: money(one.rack_cost)),
    ]


def _bound(plan: Plan) -> str:
    gap = plan.after.hosts - plan.bound
    if gap <= 0:
        return f"No plan has fewer hosts. {plan.bound_reason}"
    share = gap / plan.bound if plan.bound else 0.0
    return f"No plan has fewer than {plan.bound:g} hosts; the gap is {gap:g} ({share:.0%}). " + (
        plan.bound_reason
    )


def _backtest(plan: Plan) -> str:
    back = plan.backtest
    if back is None:
        return ""
    share = back.over_target / back.samples if back.samples else 0.0
    return (
        f"Backtest: planned on {back.planned_days:.1f} days, checked on {back.checked_days:.1f}: "
        f"{share:.2%} of the hosts' samples above the target, {back.over_capacity} above capacity."
    )
