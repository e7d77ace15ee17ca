"""`compare`, `track`, `acknowledge`: verdicts for the terminal, and exit statuses for CI."""

# ruff: noqa: PLC0415 - pandas and rich are imported only when a command runs
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.commands.common import (
    EXIT_STATUS,
    OK,
    REGRESSED,
    Commands,
    add_command,
    add_nights,
    add_run_pair,
    add_store_option,
    compare_run_pair,
    console,
    open_store,
    write_text,
)
from harness.errors import ResultError


def add(commands: Commands) -> None:
    compare = add_command(commands, "compare", f"Compare two runs, commits or dates. {EXIT_STATUS}")
    compare.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write a comment for a pull request to FILE; - is standard output",
    )
    add_run_pair(compare).set_defaults(run=_compare)
    track = add_command(
        commands, "track", f"Find changes in the history of every figure. {EXIT_STATUS}"
    )
    add_nights(track).set_defaults(run=_track)
    acknowledge = add_command(
        commands, "acknowledge", "Record that the changes of a series are known, or reset it."
    )
    acknowledge.add_argument("series", metavar="ID", help="the series, as `track` lists it")
    acknowledge.add_argument(
        "--why", required=True, metavar="TEXT", help="record the reason; reports show it"
    )
    acknowledge.add_argument(
        "--reset", action="store_true", help="ignore all runs of the series up to now"
    )
    add_store_option(acknowledge).set_defaults(run=_acknowledge)


def _compare(arguments: argparse.Namespace) -> int:
    from reports import markdown, terminal

    comparison = compare_run_pair(open_store(arguments), arguments)
    if arguments.markdown is None:
        terminal.print_comparison(console(), comparison)
    elif str(arguments.markdown) == "-":
        sys.stdout.write(markdown.comment(comparison))
    else:
        write_text(arguments.markdown, markdown.comment(comparison))
    return REGRESSED if comparison.counts["regressed"] else OK


def _track(arguments: argparse.Namespace) -> int:
    from harness.results.history import load_history
    from reports import terminal

    history = load_history(open_store(arguments), arguments.nights)
    terminal.print_history(console(), history)
    return REGRESSED if history.counts["regressed"] else OK


def _acknowledge(arguments: argparse.Namespace) -> int:
    from harness.results.acknowledgements import acknowledge
    from harness.results.history import ID, load_history
    from harness.results.remote import push

    if not arguments.why.strip():
        raise ResultError("--why is empty", hint="give the reason; reports show it")
    store = open_store(arguments)
    history = load_history(store)
    if arguments.series not in set(history.series[ID]):
        raise ResultError(
            f"there is no series {arguments.series!r}",
            hint="use an id that `python -m harness track` lists",
        )
    changes = history.changes[
        (history.changes[ID] == arguments.series) & (history.changes["acknowledged"] == "")
    ]
    names = [str(run) for run in changes["run"]]
    if arguments.reset:
        points = history.points
        names = [str(points.loc[points[ID] == arguments.series, "run"].max())]
    if not names:
        raise ResultError(
            f"series {arguments.series} has no change to acknowledge",
            hint="use --reset to ignore all its runs up to now",
        )
    for run in names:
        path = acknowledge(store, arguments.series, run, arguments.why, reset=arguments.reset)
        sys.stdout.write(f"{path}\n")
    push(arguments.results)
    return OK
