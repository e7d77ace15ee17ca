"""`plan import`: make a data folder of traces and inventories."""

# ruff: noqa: PLC0415 - pyarrow and rich are imported only when the command runs
from __future__ import annotations

import argparse
import math
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.common import OK, Commands, add_command, console
from harness.commands.plan.status import EXIT_STATUS, planning

if TYPE_CHECKING:
    from harness.planner.trace import Import

# The keys of harness.planner.sources.FORMATS; that module imports pyarrow.
FORMATS = ("planner", "gwa-t-12", "opendc", "rvtools", "virt-top", "prometheus", "azure")
_NAMES_SHOWN = 3


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "import",
        "Import traces and inventories. Show which columns and units they have, and what is wrong "
        f"with them. {EXIT_STATUS}",
    )
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="a file, or a folder with files"
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DATA", help="write this data folder"
    )
    parser.add_argument(
        "--replace", action="store_true", help="replace DATA if it is a data folder already"
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="read all sources so (default: recognize each file)"
    )
    parser.add_argument(
        "--timezone", metavar="ZONE", help="read times without an offset so, as Europe/Berlin"
    )
    parser.add_argument(
        "--date",
        type=_date,
        metavar="DAY",
        help="take DAY (YYYY-MM-DD) as that of the first sample, where times have no date",
    )
    parser.add_argument(
        "--rating-mhz",
        type=_positive,
        metavar="MHZ",
        help="divide demand in MHz by this speed of one core",
    )
    parser.add_argument(
        "--step", type=_step, metavar="SECONDS", help="average finer samples to this step"
    )
    parser.set_defaults(run=planning(_run))


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError("must be a day as 2026-03-01") from error


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError("must be a positive number")
    return number


def _step(text: str) -> float:
    number = _positive(text)
    if not 1 <= number <= 86_400:
        raise argparse.ArgumentTypeError("must be between 1 and 86400")
    return number


def _run(arguments: argparse.Namespace) -> int:
    from harness.planner.importer import import_data
    from harness.planner.sources.base import ImportOptions

    options = ImportOptions(
        format=arguments.format,
        timezone=arguments.timezone,
        date=arguments.date,
        rating_mhz=arguments.rating_mhz,
        step=arguments.step,
    )
    description = import_data(arguments.sources, arguments.out, options, replace=arguments.replace)
    _print(description)
    sys.stdout.write(f"{arguments.out}\n")
    return OK


def _print(description: Import) -> None:
    """Print what was detected, and the findings."""
    from rich.table import Table
    from rich.text import Text

    terminal = console()
    for source in description.sources:
        terminal.print(Text(f"{source.path}: {source.format}, {source.rows:,} rows"))
        for sentence in source.detected:
            terminal.print(Text(f"  {sentence}"))
    terminal.print(Text(_summary(description)))
    if not description.findings:
        return
    table = Table(title="Findings", title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("what was found, and what was done")
    table.add_column("machines")
    for finding in description.findings:
        names = ", ".join(finding.machines[:_NAMES_SHOWN])
        if len(finding.machines) > _NAMES_SHOWN:
            names += ", ..."
        row = (finding.severity, f"{finding.count:,}", finding.sentence, names)
        table.add_row(*map(Text, row))
    terminal.print(table)


def _summary(description: Import) -> str:
    machines = f"{description.machines:,} machines, {description.with_trace:,} with samples"
    if not description.samples:
        return machines
    first, last = (
        f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M}"
        for moment in (description.start, description.end)
    )
    return (
        f"{machines}: {description.samples:,} samples, one each {description.step:g} s, "
        f"from {first} to {last} UTC"
    )
