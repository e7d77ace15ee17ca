"""The exit status of `plan` commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from harness.errors import PlanError

BAD_INPUT = 4
EXIT_STATUS = f"Exit status: 0 after success, {BAD_INPUT} for input that cannot be used."


def planning(
    run: Callable[[argparse.Namespace], int],
) -> Callable[[argparse.Namespace], int]:
    """The command with status BAD_INPUT after a PlanError, which is printed to stderr."""

    def run_and_report(arguments: argparse.Namespace) -> int:
        try:
            return run(arguments)
        except PlanError as error:
            sys.stderr.write(f"{error}\n")
            return BAD_INPUT

    return run_and_report
