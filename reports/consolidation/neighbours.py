"""What a busy neighbour does to servers, as a table whose cells are shaded by the effect."""

from __future__ import annotations

import math

import pandas as pd

from harness.results.schema import decode_parameters
from reports import text
from reports.consolidation.searches import PREFIX, UNANSWERED
from reports.curves import NO_ANSWER
from reports.page import Cell, Run, Section, Table, columns, name_cell, target_label

METRIC = f"{PREFIX}neighbour.ratio"
# the lowest ratio of each shade; the style sheet has a class for each
SHADES = (1.1, 1.5, 2.0, 4.0)


def sections(run: Run) -> list[Section]:
    """One section, or none when the run has no neighbours."""
    frame = run.frame[run.frame["metric"].isin([METRIC, METRIC + UNANSWERED])]
    if frame.empty:
        return []
    section = Section("neighbours", "Busy neighbours")
    section.lead.append(
        "How many times longer a server's latency, at the percentile of its limit, becomes beside "
        "a neighbour that uses one resource as much as it can. 1 is no effect."
    )
    for (hypervisor, backend), group in frame.groupby(["hypervisor", "backend"], observed=True):
        section.tables.append(_table(group, target_label(str(hypervisor), str(backend))))
    steps = ", ".join(f"{ratio:g}" for ratio in SHADES)
    section.notes.append(f"A darker cell is a stronger effect. The shades begin at {steps}.")
    return [section]


def _table(samples: pd.DataFrame, label: str) -> Table:
    known = [decode_parameters(str(one)) for one in samples["parameters"]]
    unanswered = samples["metric"].astype(str).str.endswith(UNANSWERED)
    values = samples["value"].mask(unanswered, math.inf)
    table = pd.DataFrame(known).assign(value=values.to_numpy())
    matrix = table.pivot_table("value", "victim", "aggressor", aggfunc="median", sort=False)
    rows = [
        [name_cell(str(victim), ()), *(_cell(float(one)) for one in ratios)]
        for victim, ratios in zip(matrix.index, matrix.to_numpy(), strict=True)
    ]
    head = columns("Server", *(f"#{name}" for name in matrix.columns))
    return Table(f"Ratio of latencies beside a neighbour: {label}", head, rows)


def _cell(ratio: float) -> Cell:
    shade = sum(ratio >= lowest for lowest in SHADES)
    shown = NO_ANSWER if math.isinf(ratio) else text.number(ratio, 2)
    return Cell(shown, ratio, style=f"heat heat{shade}" if shade else "heat")
