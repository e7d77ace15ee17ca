"""The command line: `python -m harness COMMAND`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from harness.commands import bisect, doctor, exchange, plan, regressions, report
from harness.errors import HarnessError


def parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; each sets `run`, a function that returns the exit status."""
    main_parser = argparse.ArgumentParser(
        prog="python -m harness",
        description="Check this machine, compare runs, make reports, and plan hosts.",
    )
    commands = main_parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (doctor, report, regressions, bisect, exchange, plan):
        module.add(commands)
    return main_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; return its exit status, or 1 after an error (printed to stderr)."""
    arguments = parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except HarnessError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
