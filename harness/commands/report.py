"""`report run`, `report compare`, `report trend`, `report index`: pages."""

# ruff: noqa: PLC0415 - pandas: only for who asks for it
from __future__ import annotations

import argparse

from harness.commands.common import (
    WORDS,
    Commands,
    compared,
    parser,
    show,
    store,
    with_nights,
    with_page,
    with_sides,
    with_store,
)


def add(commands: Commands) -> None:
    what = "make an HTML page of a run, a comparison, the history, or all runs"
    pages = parser(commands, "report", what).add_subparsers(
        title="pages", required=True, metavar="PAGE"
    )
    run = parser(pages, "run", "a run: utilization, overhead, suites, environment")
    run.add_argument(
        "which", nargs="?", default="latest", metavar="RUN", help=f"{WORDS} (default: latest)"
    )
    compare = parser(pages, "compare", "two runs, commits or dates side by side")
    trend = parser(pages, "trend", "every figure over the runs, and where it changed")
    index = parser(pages, "index", "a list of all runs")
    for one, reads, make in (
        (run, with_store, _run),
        (compare, with_sides, _compare),
        (trend, with_nights, _trend),
        (index, with_store, _index),
    ):
        with_page(reads(one)).set_defaults(run=make)


def _run(arguments: argparse.Namespace) -> int:
    from harness.results.select import select
    from reports.run import render

    (*_, file) = select(store(arguments), arguments.which).files
    return show(render(file, arguments.out or file.with_suffix(".html")), arguments)


def _compare(arguments: argparse.Namespace) -> int:
    from reports.compare import render

    where = store(arguments)
    made = render(compared(where, arguments), arguments.out or where / "compare.html")
    return show(made, arguments)


def _trend(arguments: argparse.Namespace) -> int:
    from harness.results.track import track
    from reports.trend import render

    where = store(arguments)
    made = render(track(where, arguments.nights), arguments.out or where / "trend.html")
    return show(made, arguments)


def _index(arguments: argparse.Namespace) -> int:
    from reports.index import render

    where = store(arguments)
    return show(render(where, arguments.out or where / "index.html"), arguments)
