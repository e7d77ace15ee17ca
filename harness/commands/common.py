"""Shared parts of the subcommands: options, exit statuses, output files."""

# ruff: noqa: PLC0415 - pandas and rich are imported only by the commands that use them
from __future__ import annotations

import argparse
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console

    from harness.results.compare import Comparison

# argparse has no public name for this type
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
OK, FAILED, REGRESSED = 0, 1, 3  # argparse itself uses 2, for a wrong command line
EXIT_STATUS = f"Exit status: {OK} without a regression, {REGRESSED} with one, {FAILED} for errors."
RUN_HELP = "a run's name or file, a date, a commit, latest or previous"


def add_command(commands: Commands, name: str, description: str) -> argparse.ArgumentParser:
    """Add a subcommand. description: one sentence, also its help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=description, description=description
    )
    return parser


def add_store_option(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add --results, for a command that reads a store."""
    parser.add_argument(
        "--results",
        default="results",
        metavar="DIR",
        help="read runs from this directory or fsspec URL (default: results)",
    )
    return parser


def add_run_pair(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add BASE, NEW and --results, for a command that compares runs."""
    parser.add_argument("base", metavar="BASE", help=RUN_HELP)
    parser.add_argument(
        "new", metavar="NEW", nargs="?", default="latest", help=f"{RUN_HELP} (default: latest)"
    )
    return add_store_option(parser)


def add_nights(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add --nights and --results, for a command that reads the history."""
    parser.add_argument(
        "--nights",
        type=_positive_integer,
        default=180,
        metavar="N",
        help="report the newest N runs (default: 180)",
    )
    return add_store_option(parser)


def _positive_integer(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def compare_run_pair(store: Path, arguments: argparse.Namespace) -> Comparison:
    """Compare BASE and NEW of a local store. Raises ResultError."""
    from harness.results.compare import compare
    from harness.results.selection import select_runs
    from harness.results.store import runs

    base, new = (select_runs(store, name) for name in (arguments.base, arguments.new))
    return compare(base, new, runs(store))


def open_store(arguments: argparse.Namespace) -> Path:
    """The directory of --results; for a URL its mirror, after a pull. Raises ResultError."""
    from harness.results import remote

    return remote.open_store(arguments.results)


def write_text(path: Path, text: str) -> int:
    """Write a file atomically; return the exit status. Raises ResultError."""
    from harness.errors import ResultError
    from harness.results.atomic_write import atomic_write

    try:
        with atomic_write(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResultError(
            f"{path} cannot be written: {error.strerror}", hint="name another file, or free space"
        ) from error
    return OK


def add_page_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add --out and --open, for a command that writes a page."""
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="write the page to FILE")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    return parser


def show_page(page: Path, arguments: argparse.Namespace) -> int:
    """Print the path of a page and, with --open, open it; return the exit status."""
    sys.stdout.write(f"{page}\n")
    if arguments.open and not webbrowser.open(page.resolve().as_uri()):
        sys.stderr.write(f"no browser could be started\nhint: open {page} by hand\n")
        return FAILED
    return OK


def console() -> Console:
    """The terminal; 120 columns wide when the output is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)
