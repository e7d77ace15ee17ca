"""`bisect`: is it slower, and by which commit? Both revisions run in turn, A B B A."""

# ruff: noqa: PLC0415 - pandas and scipy: only for who asks for them
from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.common import FAILED, OK, REGRESSED, Commands, parser

if TYPE_CHECKING:
    from harness.bisect import Bisection

DEFAULT = [sys.executable, "-m", "pytest", "suites", "--results={results}"]
ROUNDS = 8


def add(commands: Commands) -> None:
    one = parser(
        commands,
        "bisect",
        "run two revisions in turn, and, if the newer is slower, find the commit that made it so. "
        f"Exit status: {OK} when nothing is slower, {REGRESSED} when something is, 1 for errors.",
    )
    one.add_argument("base", metavar="BASE", help="what git knows the good revision by")
    one.add_argument("new", metavar="NEW", nargs="?", default="HEAD", help="(default: HEAD)")
    one.add_argument(
        "--series", metavar="ID", help="of track: which figure (default: what became worst)"
    )
    one.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"pairs of runs, at least 6 (default: {ROUNDS})"
    )
    one.add_argument("--only-confirm", action="store_true", help="do not look for the commit")
    one.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="(default: results)"
    )
    one.add_argument(
        "--command",
        nargs=argparse.REMAINDER,
        default=DEFAULT,
        metavar="WORD",
        help="what measures a checkout, from there; it leaves one run in {results} "
        "(default: python -m pytest suites --results={results}); comes last",
    )
    one.set_defaults(run=_bisect)


def _bisect(arguments: argparse.Namespace) -> int:
    from harness.bisect import Measurer, Repository, bisect, confirm

    def tell(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    repository = Repository(Path.cwd())
    base, new = repository.commit(arguments.base), repository.commit(arguments.new)
    with Measurer(repository, arguments.results, arguments.command, tell) as measurer:
        found = confirm(measurer, base, new, arguments.rounds, arguments.series)
        if found is None:
            tell(f"no difference is confirmed by {arguments.rounds} pairs")
            return OK
        tell(f"confirmed: {found.words}")
        if arguments.only_confirm:
            return REGRESSED
        made: Bisection = bisect(measurer, base, new, arguments.rounds, found)
    for line in made.lines:
        tell(line)
    return REGRESSED if made.commit else FAILED
