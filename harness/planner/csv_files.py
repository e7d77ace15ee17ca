"""A plan as CSV files: hosts, machines, and moves."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.errors import PlanError
from harness.planner.plan import Plan
from harness.planner.trace import METRICS
from harness.results.atomic_write import atomic_write
from harness.results.csv_guard import guard_formulas


def write_csv(plan: Plan, folder: Path) -> list[Path]:
    """Write hosts.csv, machines.csv and moves.csv; return their paths.

    Text that a spreadsheet would run as a formula gets an apostrophe. Raises PlanError.
    """
    written = []
    for name, table in tables(plan).items():
        path = folder / f"{name}.csv"
        try:
            with atomic_write(path) as partial:
                guard_formulas(table).to_csv(partial, index=False, lineterminator="\n")
        except OSError as error:
            raise PlanError(
                f"{path} cannot be written: {error.strerror}",
                hint="name another folder, or free space",
            ) from error
        written.append(path)
    return written


def tables(plan: Plan) -> dict[str, pd.DataFrame]:
    """The tables by the name of their file."""
    hosts = [
        (
            *(one.name, one.type, one.rack, one.existing, len(one.machines), one.watts),
            *(one.peak.get(metric) for metric in METRICS),
        )
        for one in plan.hosts
    ]
    machines = [(name, one.name, one.rack) for one in plan.hosts for name in one.machines]
    moves = [(one.machine, one.source, one.target) for one in plan.moves]
    peaks = [f"peak_{metric}" for metric in METRICS]
    columns = ["host", "type", "rack", "existing", "machines", "watts", *peaks]
    return {
        "hosts": pd.DataFrame(hosts, columns=columns),
        "machines": pd.DataFrame(machines, columns=["machine", "host", "rack"]),
        "moves": pd.DataFrame(moves, columns=["machine", "from", "to"]),
    }
