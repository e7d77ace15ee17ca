"""`python -m harness`: what is done outside pytest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from harness.commands import bisect, doctor, exchange, nightly, report
from harness.errors import HarnessError


def parser() -> argparse.ArgumentParser:
    """Each subcommand sets `run`, a function of the parsed arguments that gives the exit status."""
    main_parser = argparse.ArgumentParser(prog="python -m harness", description=__doc__)
    commands = main_parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    doctor_parser = commands.add_parser(
        "doctor", help="show what this machine can do, and the hint for each lack"
    )
    doctor_parser.set_defaults(run=lambda _arguments: doctor.main())
    for module in (report, nightly, bisect, exchange):
        module.add(commands)
    return main_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; its exit status, or 1 with the error on standard error."""
    arguments = parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except HarnessError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
