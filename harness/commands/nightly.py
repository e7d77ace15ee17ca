"""`compare`, `track`, `acknowledge`: verdicts on the terminal, and exit statuses for CI."""

# ruff: noqa: PLC0415 - pandas and rich: only for who asks for them
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.commands.common import (
    OK,
    REGRESSED,
    Commands,
    compared,
    console,
    parser,
    store,
    with_nights,
    with_sides,
    with_store,
    write,
)
from harness.errors import ResultError

EXIT = f"Exit status: {OK} when nothing regressed, {REGRESSED} when something did, 1 for errors."


def add(commands: Commands) -> None:
    compare = parser(commands, "compare", f"compare two runs, commits or dates. {EXIT}")
    compare.add_argument(
        "--markdown", type=Path, metavar="FILE", help="for a pull request's comment; - for stdout"
    )
    with_sides(compare).set_defaults(run=_compare)
    track = parser(commands, "track", f"find changes in the history of every figure. {EXIT}")
    with_nights(track).set_defaults(run=_track)
    known = parser(
        commands, "acknowledge", "say that a series' changes are known, or begin a series anew"
    )
    known.add_argument("series", metavar="ID", help="of the series, as track shows it")
    known.add_argument("--why", required=True, metavar="TEXT", help="kept, and shown with it")
    known.add_argument(
        "--reset", action="store_true", help="no run up to now counts for this series any more"
    )
    with_store(known).set_defaults(run=_acknowledge)


def _compare(arguments: argparse.Namespace) -> int:
    from reports import markdown, terminal

    found = compared(store(arguments), arguments)
    if arguments.markdown is None:
        terminal.comparison(console(), found)
    elif str(arguments.markdown) == "-":
        sys.stdout.write(markdown.comment(found))
    else:
        write(arguments.markdown, markdown.comment(found))
    return REGRESSED if found.counts["regressed"] else OK


def _track(arguments: argparse.Namespace) -> int:
    from harness.results.track import track
    from reports import terminal

    found = track(store(arguments), arguments.nights)
    terminal.track(console(), found)
    return REGRESSED if found.counts["regressed"] else OK


def _acknowledge(arguments: argparse.Namespace) -> int:
    from harness.results.acknowledged import acknowledge
    from harness.results.remote import push
    from harness.results.track import ID, track

    if not arguments.why.strip():
        raise ResultError("--why: why?", hint="Say it for those who read the page next year.")
    where = store(arguments)
    found = track(where)
    if arguments.series not in set(found.series[ID]):
        raise ResultError(
            f"there is no series {arguments.series!r}", hint="See `python -m harness track`."
        )
    mine = found.changes[
        (found.changes[ID] == arguments.series) & (found.changes["acknowledged"] == "")
    ]
    names = [str(run) for run in mine["run"]]
    if arguments.reset:
        names = [str(found.points.loc[found.points[ID] == arguments.series, "run"].max())]
    if not names:
        raise ResultError(
            f"series {arguments.series} has no change to be acknowledged",
            hint="To begin it anew, say --reset.",
        )
    for run in names:
        made = acknowledge(where, arguments.series, run, arguments.why, reset=arguments.reset)
        sys.stdout.write(f"{made}\n")
    push(arguments.results)
    return OK
