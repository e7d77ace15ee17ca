"""`report run`, `report compare`, `report trend`, `report index`: pages."""

# ruff: noqa: PLC0415 - pandas: only for who asks for it
from __future__ import annotations

import argparse

from harness.commands.common import Commands, parser, show, store, with_page, with_store


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
    compare.add_argument("base", metavar="BASE", help=WORDS)
    compare.add_argument(
        "new", metavar="NEW", nargs="?", default="latest", help="alike (default: latest)"
    )
    trend = parser(pages, "trend", "every figure over the runs, and where it changed")
    nights(trend)
    index = parser(pages, "index", "a list of all runs")
    for one, make in ((run, _run), (compare, _compare), (trend, _trend), (index, _index)):
        with_page(with_store(one)).set_defaults(run=make)


WORDS = "a run's name or file, a date, a commit, latest or previous"


def nights(one: argparse.ArgumentParser) -> None:
    one.add_argument(
        "--nights", type=_count, default=180, metavar="N", help="how many runs back (default: 180)"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _run(arguments: argparse.Namespace) -> int:
    from harness.results.select import select
    from reports.run import render

    (*_, file) = select(store(arguments), arguments.which).files
    return show(render(file, arguments.out or file.with_suffix(".html")), arguments)


def _compare(arguments: argparse.Namespace) -> int:
    from harness.results.compare import compare
    from harness.results.select import select
    from harness.results.store import runs
    from reports.compare import render

    where = store(arguments)
    found = compare(select(where, arguments.base), select(where, arguments.new), runs(where))
    return show(render(found, arguments.out or where / "compare.html"), arguments)


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
