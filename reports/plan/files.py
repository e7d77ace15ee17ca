"""The CSV files beside the page of a plan: all rows of what the page shows in part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from harness.errors import ResultError
from harness.planner.plan import Plan
from harness.results.atomic_write import atomic_write
from harness.results.csv_guard import guard_formulas
from reports import text
from reports.page import Cell, Section, Table, columns
from reports.plan import amounts
from reports.plan.amounts import DAYS, whole_cell
from reports.plan.fleet import freed_hosts


@dataclass(frozen=True)
class CsvFile:
    """A file: the end of its name, what its rows are, and the rows."""

    name: str
    about: str
    frame: pd.DataFrame

    def path(self, page: Path) -> Path:
        """Beside the page, with its name: plan.html and plan-moves.csv."""
        return page.with_name(f"{page.stem}-{self.name}.csv")


def csv_files(plan: Plan) -> list[CsvFile]:
    """All files of a plan."""
    moves = pd.DataFrame(
        [(one.machine, one.source, one.target) for one in plan.moves],
        columns=["machine", "from", "to"],
    )
    freed = pd.DataFrame({"host": freed_hosts(plan)})
    failures = pd.DataFrame(
        [
            (one.failed, one.machines, len(one.unplaced), one.worst_peak, "; ".join(one.unplaced))
            for one in plan.failures
        ],
        columns=["failed", "machines", "without_host", "fullest_other_host", "which"],
    )
    return [
        CsvFile("moves", "machines that change their host: from where, and to where", moves),
        CsvFile("machines", "all machines with their host, and advice", _machines(plan)),
        CsvFile(
            "hosts", "all hosts of the plan, with their load in each hour of the week", _hosts(plan)
        ),
        CsvFile("freed", "hosts of today that all machines leave", freed),
        CsvFile("failures", "all failures that were tried", failures),
    ]


def _machines(plan: Plan) -> pd.DataFrame:
    advice = {one.machine: one for one in plan.advice}
    rows = []
    for host in plan.hosts:
        for machine in host.machines:
            found = advice.get(machine)
            said = (found.kind, found.suggestion) if found else ("", "")
            rows.append((machine, host.name, host.type, host.rack, *said))
    names = ["machine", "host", "host_type", "rack", "advice", "suggestion"]
    return pd.DataFrame(rows, columns=names)


def _hosts(plan: Plan) -> pd.DataFrame:
    metrics = amounts.planned_metrics(plan)
    hours = [f"{day.lower()}_{hour:02}" for day in DAYS for hour in range(24)]
    rows = [
        (
            *(host.name, host.type, host.rack, "keep" if host.existing else "buy"),
            *(len(host.machines), host.watts),
            *(host.peak.get(metric) for metric in metrics),
            *amounts.week(host.hours),
        )
        for host in plan.hosts
    ]
    peaks = [f"{metric}_peak" for metric in metrics]
    names = ["host", "type", "rack", "keep_or_buy", "machines", "watts", *peaks, *hours]
    return pd.DataFrame(rows, columns=names)


def write_files(files: Sequence[CsvFile], page: Path) -> None:
    """Write all files beside the page, each completely or not at all. Raises ResultError."""
    for file in files:
        out = file.path(page)
        try:
            with atomic_write(out) as partial:
                text_of = guard_formulas(file.frame).to_csv(index=False, float_format="%.6g")
                partial.write_bytes(text_of.encode("utf-8", "replace"))
        except OSError as error:
            raise ResultError(
                f"{out} cannot be written: {error.strerror}",
                hint="name another file with --out, or free space",
            ) from error


def section(plan: Plan, files: Sequence[CsvFile], page: Path) -> Section:
    """How many machines move, and links to the files."""
    found = Section("moves", "Moves and files")
    machines = sum(len(host.machines) for host in plan.hosts)
    unknown = sum(not move.source for move in plan.moves)
    moved, stay = len(plan.moves) - unknown, max(machines - len(plan.moves), 0)
    if moved:
        verb = "moves" if moved == 1 else "move"
        found.lead.append(
            f"{text.count(moved, 'machine')} {verb} to another host, and {stay:,} stay where they "
            "are."
        )
    elif stay:
        found.lead.append(f"{text.count(stay, 'machine')} stay where they are, and none moves.")
    if unknown:
        found.lead.append(
            f"The data name no host of today for {text.count(unknown, 'machine')}. The file of "
            "moves has their hosts in the plan."
        )
    rows = [
        [
            Cell(file.path(page).name, href=f"./{quote(file.path(page).name)}"),
            Cell(file.about, style="prose"),
            whole_cell(len(file.frame)),
        ]
        for file in files
    ]
    head = columns("File", "What it has", "#Rows")
    found.tables.append(Table("Files beside this page", head, rows))
    return found


def placement(files: Sequence[CsvFile]) -> pd.DataFrame:
    """The rows that the page itself carries: all machines."""
    return next(file.frame for file in files if file.name == "machines")
