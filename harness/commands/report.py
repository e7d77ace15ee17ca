"""`report run`, `report compare`, `report trend`, `report index`: HTML pages."""

# ruff: noqa: PLC0415 - pandas is imported only when a command runs
from __future__ import annotations

import argparse

from harness.commands.common import (
    RUN_HELP,
    Commands,
    add_command,
    add_nights,
    add_page_options,
    add_run_pair,
    add_store_option,
    compare_run_pair,
    open_store,
    show_page,
)


def add(commands: Commands) -> None:
    description = "Write an HTML page of a run, a comparison, the history, or all runs."
    pages = add_command(commands, "report", description).add_subparsers(
        title="pages", required=True, metavar="PAGE"
    )
    run = add_command(pages, "run", "Report a run: utilization, overhead, suites, environment.")
    run.add_argument(
        "selector", nargs="?", default="latest", metavar="RUN", help=f"{RUN_HELP} (default: latest)"
    )
    compare = add_command(pages, "compare", "Compare two runs, commits or dates.")
    trend = add_command(pages, "trend", "Show every figure over the runs, with its changes.")
    index = add_command(pages, "index", "List all runs.")
    for parser, add_inputs, command in (
        (run, add_store_option, _run),
        (compare, add_run_pair, _compare),
        (trend, add_nights, _trend),
        (index, add_store_option, _index),
    ):
        add_page_options(add_inputs(parser)).set_defaults(run=command)


def _run(arguments: argparse.Namespace) -> int:
    from harness.results.selection import select_runs
    from reports.run import render

    (*_, file) = select_runs(open_store(arguments), arguments.selector).files
    return show_page(render(file, arguments.out or file.with_suffix(".html")), arguments)


def _compare(arguments: argparse.Namespace) -> int:
    from reports.compare import render

    store = open_store(arguments)
    page = render(compare_run_pair(store, arguments), arguments.out or store / "compare.html")
    return show_page(page, arguments)


def _trend(arguments: argparse.Namespace) -> int:
    from harness.results.history import load_history
    from reports.trend import render

    store = open_store(arguments)
    history = load_history(store, arguments.nights)
    return show_page(render(history, arguments.out or store / "trend.html"), arguments)


def _index(arguments: argparse.Namespace) -> int:
    from reports.index import render

    store = open_store(arguments)
    return show_page(render(store, arguments.out or store / "index.html"), arguments)
