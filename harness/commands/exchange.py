"""`export` and `import`: exchange of runs with other tools."""

# ruff: noqa: PLC0415 - pandas is imported only when a command runs
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.commands.common import (
    OK,
    RUN_HELP,
    Commands,
    add_command,
    add_store_option,
    open_store,
    write_text,
)
from harness.errors import ResultError

# The keys of harness.results.exchange.EXPORTS and IMPORTS; that module imports pandas.
EXPORTS = ("csv", "json", "benchmark", "junit")
IMPORTS = ("benchmark", "kvm-unit-tests", "json")


def add(commands: Commands) -> None:
    export = add_command(
        commands, "export", "Write a run as CSV, JSON, pytest-benchmark JSON or JUnit XML."
    )
    export.add_argument("selector", metavar="RUN", help=RUN_HELP)
    export.add_argument("--format", required=True, choices=EXPORTS, help="choose the format")
    export.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="write to FILE (default: standard output)"
    )
    add_store_option(export).set_defaults(run=_export)
    importer = add_command(commands, "import", "Create a run from a file of another tool.")
    importer.add_argument("file", type=Path, metavar="FILE", help="the file of the other tool")
    importer.add_argument("--format", required=True, choices=IMPORTS, help="name its format")
    importer.add_argument(
        "--hypervisor",
        default="",
        metavar="NAME",
        help="record this hypervisor (default: qemu for kvm-unit-tests, otherwise none)",
    )
    importer.add_argument(
        "--cpu",
        default="",
        metavar="MODEL",
        help="record this CPU if the file names none; only runs with the same CPU are comparable",
    )
    add_store_option(importer).set_defaults(run=_import)


def _export(arguments: argparse.Namespace) -> int:
    from harness.results.exchange import export_run
    from harness.results.selection import select_runs

    selection = select_runs(open_store(arguments), arguments.selector)
    if len(selection.files) != 1:
        raise ResultError(
            f"{arguments.selector!r} matches {len(selection.files)} runs: "
            f"{', '.join(selection.names[:5])}",
            hint="name one of them",
        )
    text = export_run(selection.files[0], arguments.format)
    if arguments.out is None:
        sys.stdout.write(text)
        return OK
    return write_text(arguments.out, text)


def _import(arguments: argparse.Namespace) -> int:
    from harness.results.exchange import import_run
    from harness.results.remote import push

    store = open_store(arguments)
    run = import_run(store, arguments.file, arguments.format, arguments.hypervisor, arguments.cpu)
    push(arguments.results)
    sys.stdout.write(f"{run}\n")
    return OK
