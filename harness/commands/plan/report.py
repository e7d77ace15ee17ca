"""`plan report`: the page of a plan, or of the quality of imported data."""

# ruff: noqa: PLC0415 - numpy and pandas are imported only when the command runs
from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.common import Commands, add_command, add_page_options, show_page
from harness.commands.plan.status import EXIT_STATUS, planning

if TYPE_CHECKING:
    from harness.planner.trace import Import


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "report",
        "Write the HTML page of a plan, with CSV files beside it. For a data folder, write the "
        f"page of its data quality. {EXIT_STATUS}",
    )
    parser.add_argument(
        "source", type=Path, metavar="PLAN", help="the file of a plan, or a data folder"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DATA",
        help="read the data quality from this folder (default: the one that was planned)",
    )
    add_page_options(parser).set_defaults(run=planning(_run))


def _run(arguments: argparse.Namespace) -> int:
    page = _data_page if arguments.source.is_dir() else _plan_page
    return show_page(page(arguments), arguments)


def _data_page(arguments: argparse.Namespace) -> Path:
    from harness.planner.data_folder import DataFolder
    from reports.plan import quality

    folder: Path = arguments.source
    out: Path = arguments.out or folder / "quality.html"
    return quality.render(DataFolder(folder).description, out, str(folder))


def _plan_page(arguments: argparse.Namespace) -> Path:
    from harness.planner.plan_file import read_plan
    from reports import plan as plan_page

    source: Path = arguments.source
    plan = read_plan(source)
    imported = _import(arguments.data, Path(plan.data))
    return plan_page.render(plan, arguments.out or source.with_suffix(".html"), imported)


def _import(named: Path | None, planned: Path) -> Import | None:
    """The description of the data; None where the folder that was planned is gone."""
    from harness.errors import PlanError
    from harness.planner.data_folder import DataFolder

    if named is not None:
        return DataFolder(named).description
    try:
        return DataFolder(planned).description
    except PlanError:
        return None
