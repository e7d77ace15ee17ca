"""`bisect`: is it slower, and by which commit? Both revisions run in turn, A B B A."""

# ruff: noqa: PLC0415 - pandas and scipy: only for who asks for them
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.commands.common import OK, REGRESSED, Commands, parser
from harness.errors import HarnessError
from harness.urls import is_url

DEFAULT = [sys.executable, "-m", "pytest", "suites", "--virt-results={results}"]


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
        "--series",
        default="",
        metavar="ID",
        help="of track: which figure (default: what became worst)",
    )
    one.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="pairs of runs (default: as many as it takes to show one figure among all)",
    )
    one.add_argument("--only-confirm", action="store_true", help="do not look for the commit")
    one.add_argument("--results", default="results", metavar="DIR", help="(default: results)")
    one.add_argument(
        "--command",
        nargs=argparse.REMAINDER,
        default=DEFAULT,
        metavar="WORD",
        help="what measures a checkout, from there; it leaves one run in {results} "
        "(default: python -m pytest suites --virt-results={results}); comes last",
    )
    one.set_defaults(run=_bisect)


def _bisect(arguments: argparse.Namespace) -> int:
    from harness.commands.revisions import Repository, bisect, confirm, measuring

    def tell(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    if not arguments.command:
        raise HarnessError("--command: which?", hint="Say what measures a checkout, as last words.")
    if is_url(arguments.results):
        raise HarnessError("bisect keeps its runs in a directory", hint="Say --results=DIR.")
    repository = Repository(Path.cwd())
    base, new = repository.commit(arguments.base), repository.commit(arguments.new)
    if not arguments.only_confirm:
        repository.between(base, new)  # said before hours of measuring
    with measuring(repository, Path(arguments.results), arguments.command, tell) as measurer:
        found = confirm(measurer, base, new, arguments.rounds, arguments.series)
        if found is None:
            tell("no difference is confirmed")
            return OK
        tell(f"confirmed: {found.words}")
        if not arguments.only_confirm:
            for line in bisect(measurer, base, new, found):
                tell(line)
    return REGRESSED
