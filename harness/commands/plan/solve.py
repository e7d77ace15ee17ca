"""`plan solve`: plan the hosts for the machines of a data folder."""

# ruff: noqa: PLC0415 - numpy, scipy and rich are imported only when the command runs
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.common import (
    OK,
    RUN_HELP,
    Commands,
    add_command,
    add_store_option,
    open_store,
)
from harness.commands.plan.status import EXIT_STATUS, planning
from harness.commands.plan.summary import print_plan

if TYPE_CHECKING:
    from harness.planner.hosts_file import HostsFile
    from harness.planner.overhead import Overhead
    from harness.planner.plan import Plan
    from harness.planner.plan_inputs import SolveOptions

USES = ("any", "existing", "new")


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "solve",
        "Plan the hosts for the machines of a data folder, and write the plan as JSON. "
        f"{EXIT_STATUS}",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="a folder of `plan import`")
    parser.add_argument(
        "--hosts", type=Path, required=True, metavar="FILE", help="read the hosts from hosts.toml"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("plan.json"),
        metavar="PLAN",
        help="write the plan to this file (default: plan.json)",
    )
    parser.add_argument(
        "--csv", type=Path, metavar="DIR", help="also write hosts, machines and moves as CSV"
    )
    _add_measured(parser)
    add_planning_options(parser)
    parser.set_defaults(run=planning(_run))


def _add_measured(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what was measured")
    group.add_argument(
        "--knee",
        metavar="RUN",
        help="use the target utilization and the overhead that the consolidation suite measured: "
        f"{RUN_HELP}",
    )
    group.add_argument(
        "--hypervisor", metavar="NAME", help="use this hypervisor of the run, if it has several"
    )
    group.add_argument(
        "--force", action="store_true", help="use a run on an emulated host, only to look at it"
    )
    add_store_option(parser)


def add_planning_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `plan solve` and `plan demo` share."""
    parser.add_argument(
        "--what-if",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="plan this case beside the plan: grow=1.2, host=TYPE, fail=host, fail=rack, "
        "burst=1.15, utilization=0.6, pue=1.2, price=0.3; several with commas; may repeat",
    )
    for name, low, high, text in (
        ("utilization", 0.05, 0.95, "plan to this share of the CPUs (default: measured, or 0.7)"),
        ("burst", 1, 10, "multiply CPU demand whose source has means only (default: 1)"),
        ("pue", 1, 10, "use this power usage effectiveness, not that of hosts.toml"),
        ("price", 0, 1e6, "use this price of a kWh, not that of hosts.toml"),
        ("idle-factor", 0.1, 10, "multiply the idle power of all hosts (default: 1)"),
        ("vcpus-per-core", 0.1, 100, "plan machines without a trace so (default: 1)"),
        ("seconds", 0.1, 86_400, "search for so long (default: 60)"),
    ):
        parser.add_argument(f"--{name}", type=_number(low, high), metavar="NUMBER", help=text)
    for name, text in (
        ("spare", "let so many hosts fail at once (default: 0)"),
        ("spare-racks", "let so many racks fail at once (default: 0)"),
        ("seed", "seed of the search (default: 1)"),
    ):
        parser.add_argument(f"--{name}", type=_whole, metavar="NUMBER", help=text)
    parser.add_argument(
        "--use",
        choices=USES,
        default="any",
        help="use only hosts that exist, or only new ones (default: any)",
    )


def _number(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not low <= value <= high:  # also for NaN
            raise argparse.ArgumentTypeError(f"must be from {low:g} to {high:g}")
        return value

    return number


def _whole(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError("must be a whole number from 0")
    return value


def _run(arguments: argparse.Namespace) -> int:
    from harness.planner.hosts_file import read_hosts_file

    hosts = read_hosts_file(arguments.hosts)
    plan = solve(arguments.data, hosts, _overhead(arguments), arguments)
    write(plan, arguments.out, arguments.csv)
    return OK


def _overhead(arguments: argparse.Namespace) -> Overhead:
    from harness.planner.overhead import assumed_overhead, measured_overhead

    if arguments.knee is None:
        return assumed_overhead()
    return measured_overhead(
        open_store(arguments), arguments.knee, arguments.hypervisor, force=arguments.force
    )


def solve(data: Path, hosts: HostsFile, overhead: Overhead, arguments: argparse.Namespace) -> Plan:
    """Plan with the options of add_planning_options. Ctrl-C gives the best plan so far."""
    from harness.planner.data_folder import DataFolder
    from harness.planner.interruption import run_interruptible
    from harness.planner.packing import solve as pack
    from harness.planner.solve import make_plan

    folder, options = DataFolder(data), _options(arguments)
    if arguments.utilization is not None:
        overhead = overhead.with_utilization(arguments.utilization, "given")
    hosts = replace(hosts, site=hosts.site.with_given(arguments.pue, arguments.price))
    return run_interruptible(
        lambda stop: make_plan(folder, hosts, overhead, options, pack=pack, stop=stop)
    )


def _options(arguments: argparse.Namespace) -> SolveOptions:
    from harness.planner.cases import parse_what_if
    from harness.planner.plan_inputs import SolveOptions

    names = ("burst", "spare", "spare_racks", "vcpus_per_core", "idle_factor", "seconds", "seed")
    given = {name: getattr(arguments, name) for name in names}
    return SolveOptions(
        use=arguments.use,
        what_ifs=tuple(parse_what_if(text) for text in arguments.what_if),
        **{name: value for name, value in given.items() if value is not None},
    )


def write(plan: Plan, out: Path, csv: Path | None) -> None:
    """Print a plan, and write its files."""
    from harness.planner.csv_files import write_csv
    from harness.planner.plan_file import write_plan

    write_plan(plan, out)
    written = [out, *(write_csv(plan, csv) if csv else [])]
    print_plan(plan)
    sys.stdout.writelines(f"{path}\n" for path in written)
