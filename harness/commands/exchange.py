"""`export` and `import`: runs as other tools have them."""

# ruff: noqa: PLC0415 - pandas: only for who asks for it
from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.commands.common import OK, WORDS, Commands, parser, store, with_store, write
from harness.errors import ResultError

# the keys of harness.results.exchange.EXPORTS and IMPORTS, which are heavy
EXPORTS = ("csv", "json", "benchmark", "junit")
IMPORTS = ("benchmark", "kvm-unit-tests", "json")


def add(commands: Commands) -> None:
    out = parser(commands, "export", "write a run as CSV, JSON, pytest-benchmark's JSON or JUnit")
    out.add_argument("which", metavar="RUN", help=WORDS)
    out.add_argument("--format", required=True, choices=EXPORTS)
    out.add_argument("-o", "--out", type=Path, metavar="FILE", help="(default: standard output)")
    with_store(out).set_defaults(run=_export)
    into = parser(commands, "import", "make a run of what another tool wrote")
    into.add_argument("file", type=Path, metavar="FILE")
    into.add_argument("--format", required=True, choices=IMPORTS)
    into.add_argument(
        "--hypervisor",
        default="",
        metavar="NAME",
        help="what was measured (default: qemu for kvm-unit-tests, else nothing is said of it)",
    )
    into.add_argument(
        "--cpu",
        default="",
        metavar="MODEL",
        help="on which CPU, where the file does not say: runs of one CPU are compared",
    )
    with_store(into).set_defaults(run=_import)


def _export(arguments: argparse.Namespace) -> int:
    from harness.results.exchange import exported
    from harness.results.select import select

    found = select(store(arguments), arguments.which)
    if len(found.files) != 1:
        raise ResultError(
            f"{arguments.which!r} means {len(found.files)} runs: {', '.join(found.names[:5])}",
            hint="Name one of them.",
        )
    text = exported(found.files[0], arguments.format)
    if arguments.out is None:
        sys.stdout.write(text)
        return OK
    return write(arguments.out, text)


def _import(arguments: argparse.Namespace) -> int:
    from harness.results.exchange import imported
    from harness.results.remote import push

    said = (arguments.hypervisor, arguments.cpu)
    made = imported(store(arguments), arguments.file, arguments.format, *said)
    push(arguments.results)
    sys.stdout.write(f"{made}\n")
    return OK
