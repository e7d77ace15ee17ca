"""`bisect`: measures two revisions in turn (A B B A) and finds the first commit that is worse."""

# ruff: noqa: PLC0415 - pandas and scipy are imported only when the command runs
from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.common import EXIT_STATUS, OK, REGRESSED, Commands, add_command
from harness.errors import HarnessError
from harness.urls import is_url

if TYPE_CHECKING:
    from harness.commands.revisions import RevisionRunner
    from harness.results.bisection import ConfirmedRegression

DEFAULT_COMMAND = [sys.executable, "-m", "pytest", "suites", "--virt-results={results}"]


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "bisect",
        "Measure two revisions in turn and, if the newer one is worse, find the first commit that "
        f"is. {EXIT_STATUS}",
    )
    parser.add_argument("base", metavar="BASE", help="the good revision: a commit, branch or tag")
    parser.add_argument(
        "new", metavar="NEW", nargs="?", default="HEAD", help="the bad revision (default: HEAD)"
    )
    parser.add_argument(
        "--series",
        default="",
        metavar="ID",
        help="test this figure only; `track` lists the ids (default: test all figures)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="measure N pairs (default: as many as one regression among all figures needs)",
    )
    parser.add_argument("--only-confirm", action="store_true", help="do not search for the commit")
    parser.add_argument(
        "--results",
        default="results",
        metavar="DIR",
        help="write the runs below this directory (default: results)",
    )
    parser.add_argument(
        "--command",
        nargs=argparse.REMAINDER,
        default=DEFAULT_COMMAND,
        metavar="WORD",
        help="run this command in each checkout; it must write one run to {results}; must be the "
        "last option (default: python -m pytest suites --virt-results={results})",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from harness.commands.revisions import Repository, revision_runner
    from harness.results.bisection import confirm_regression

    if not arguments.command:
        raise HarnessError(
            "--command has no words",
            hint="end the command line with --command and the command that measures a checkout",
        )
    if is_url(arguments.results):
        raise HarnessError(
            f"bisect cannot write to a URL: {arguments.results}", hint="use --results=DIR"
        )
    repository = Repository(Path.cwd())
    base, new = repository.commit(arguments.base), repository.commit(arguments.new)
    # An error in the range of commits must appear before hours of measuring.
    commits = [] if arguments.only_confirm else repository.commits_between(base, new)
    directory = Path(arguments.results)
    with revision_runner(repository, directory, arguments.command, _print) as runner:
        regression = confirm_regression(
            runner.measure_pairs, base, new, arguments.rounds, arguments.series
        )
        if regression is None:
            _print("no regression is confirmed")
            return OK
        _print(f"confirmed: {regression.summary}")
        if not arguments.only_confirm:
            _search(runner, base, commits, regression)
    return REGRESSED


def _search(
    runner: RevisionRunner, base: str, commits: list[str], regression: ConfirmedRegression
) -> None:
    """Find the first bad commit and print it."""
    from harness.results.bisection import find_first_bad

    result = find_first_bad(runner.measure_pairs, base, commits, regression, _print)
    _print(f"first bad commit: {runner.repository.subject(result.first_bad)}")
    if result.unmeasured:
        _print(f"or one of the {result.unmeasured} commits before it that could not be measured")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
