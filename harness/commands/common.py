"""What subcommands have in common: words of the command line, exit statuses, pages."""

# ruff: noqa: PLC0415 - pandas and rich: only for who asks for them
from __future__ import annotations

import argparse
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console

    from harness.results.compare import Comparison

# as argparse has it: there is no public name
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
OK, FAILED, REGRESSED = 0, 1, 3  # 2 is argparse's own: the words are off
WORDS = "a run's name or file, a date, a commit, latest or previous"


def parser(commands: Commands, name: str, what: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what)
    return made


def with_store(one: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """It reads a store."""
    one.add_argument(
        "--results",
        default="results",
        metavar="DIR",
        help="where the runs are: a directory, or a URL that fsspec understands (default: results)",
    )
    return one


def with_sides(one: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """It compares two sides of a store."""
    one.add_argument("base", metavar="BASE", help=WORDS)
    one.add_argument(
        "new", metavar="NEW", nargs="?", default="latest", help="alike (default: latest)"
    )
    return with_store(one)


def with_nights(one: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """It follows a store's history."""
    one.add_argument(
        "--nights", type=_count, default=180, metavar="N", help="how many runs back (default: 180)"
    )
    return with_store(one)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def compared(where: Path, arguments: argparse.Namespace) -> Comparison:
    """The two sides, of a store that is at hand. Raises ResultError."""
    from harness.results.compare import compare
    from harness.results.select import select
    from harness.results.store import runs

    return compare(select(where, arguments.base), select(where, arguments.new), runs(where))


def store(arguments: argparse.Namespace) -> Path:
    """The runs' directory; of a URL its mirror, brought up to date. Raises ResultError."""
    from harness.results.remote import local

    return local(arguments.results)


def write(path: Path, text: str) -> int:
    """Raises ResultError when the file cannot be written; what was there before then stays."""
    from harness.errors import ResultError
    from harness.results.atomic_write import whole

    try:
        with whole(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror}") from error
    return OK


def with_page(one: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """It makes a page."""
    one.add_argument("-o", "--out", type=Path, metavar="FILE", help="where the page goes")
    one.add_argument("--open", action="store_true", help="show it in the browser")
    return one


def show(page: Path, arguments: argparse.Namespace) -> int:
    """Tell where a page is, and show it if that was asked for."""
    sys.stdout.write(f"{page}\n")
    if arguments.open and not webbrowser.open(page.resolve().as_uri()):
        sys.stderr.write("no browser could be started: open the file above\n")
        return FAILED
    return OK


def console() -> Console:
    """The terminal; without one, as wide as a log may be."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)
