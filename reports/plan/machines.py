"""Machines that need a decision: those that look idle, and those that are too large."""

from __future__ import annotations

from collections.abc import Sequence

from harness.planner.plan import MachineAdvice, Plan
from reports import text
from reports.page import Cell, Section, Table, columns, text_cell
from reports.plan import amounts
from reports.plan.amounts import amount, amount_cell, whole

MOST_ROWS = 25  # of each kind; the file of machines has all
KINDS = {
    "comatose": (
        "Machines that look idle (comatose)",
        "looks idle: it is switched on, but its CPU does nearly nothing.",
        "look idle: they are switched on, but their CPUs do nearly nothing.",
    ),
    "oversized": (
        "Machines that are larger than their work (oversized)",
        "is oversized: it has more than it ever used.",
        "are oversized: they have more than they ever used.",
    ),
}


def section(plan: Plan) -> Section:
    """Both lists, the largest machines first."""
    found = Section("machines", "Idle and oversized machines")
    kinds = {kind: [one for one in plan.advice if one.kind == kind] for kind in KINDS}
    if not any(kinds.values()):
        found.placeholder = "No machine looks idle or oversized."
        return found
    for kind, advice in kinds.items():
        if advice:
            found.lead.append(_summary(kind, advice))
            found.tables.append(_table(kind, advice))
    found.notes.append(
        "Ask the owner of a machine first: a machine may wait for a rare use, such as the end of a "
        "year. The plan itself keeps every machine."
    )
    return found


def _summary(kind: str, advice: Sequence[MachineAdvice]) -> str:
    _, one, many = KINDS[kind]
    vcpus = whole(sum(machine.vcpus for machine in advice))
    memory = amounts.total(machine.memory_mib for machine in advice)
    held = f"{vcpus} virtual CPUs"
    if memory is not None:
        held += f" and {amount(memory / 1024, 'GiB')} of memory"
    verb = "It holds" if len(advice) == 1 else "Together they hold"
    count = text.count(len(advice), "machine")
    return f"{count} {one if len(advice) == 1 else many} {verb} {held}."


def _size(one: MachineAdvice) -> tuple[float, float]:
    return one.vcpus, one.memory_mib or 0.0


def _table(kind: str, advice: Sequence[MachineAdvice]) -> Table:
    largest = sorted(advice, key=_size, reverse=True)[:MOST_ROWS]
    rows = [
        [
            text_cell(amounts.name(one.machine)),
            amount_cell(one.vcpus, digits=1),
            amount_cell(None if one.memory_mib is None else one.memory_mib / 1024, digits=2),
            amount_cell(one.cpu_mean, digits=2),
            amount_cell(one.cpu_peak, digits=2),
            Cell(amounts.line(one.suggestion) or text.NONE, style="prose"),
        ]
        for one in largest
    ]
    caption = KINDS[kind][0]
    if len(advice) > len(rows):
        caption += f": the largest {len(rows)} of {len(advice):,}"
    head = columns(
        *("Machine", "#Virtual CPUs", "#Memory (GiB)", "#CPU used, mean (cores)"),
        *("#CPU used, highest (cores)", "Suggestion"),
    )
    return Table(caption, head, rows)
