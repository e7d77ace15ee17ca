"""`plan`: from traces of a data centre to machines, racks, energy and money.

One module for each subcommand. Each has `add(commands)`, which sets `run` with `planning`.
"""

from __future__ import annotations

from harness.commands.common import Commands, add_command
from harness.commands.plan import demo, import_, report, solve


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "plan", "Plan how many hosts, racks, kWh and how much money machines need."
    )
    subcommands = parser.add_subparsers(title="steps", required=True, metavar="STEP")
    for module in (import_, solve, report, demo):
        module.add(subcommands)
