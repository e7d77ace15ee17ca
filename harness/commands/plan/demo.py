"""`plan demo`: a made-up data centre, planned and reported in under a minute."""

# ruff: noqa: PLC0415 - numpy and pyarrow are imported only when the command runs
from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands.common import Commands, add_command, show_page
from harness.commands.plan.solve import add_planning_options, solve, write
from harness.commands.plan.status import EXIT_STATUS, planning

_WHAT_IFS = ["grow=1.2", "fail=rack", "utilization=0.6"]
_SECONDS = 20.0


def add(commands: Commands) -> None:
    parser = add_command(
        commands,
        "demo",
        "Make up a data centre whose servers are idle most of the time, plan it, and report it. "
        f"{EXIT_STATUS}",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("plan-demo"),
        metavar="DIR",
        help="write the data, hosts.toml, the plan and its page here (default: plan-demo)",
    )
    parser.add_argument(
        "--servers",
        type=_servers,
        default=400,
        metavar="NUMBER",
        help="make up so many servers (default: 400)",
    )
    parser.add_argument("--replace", action="store_true", help="replace the data of another demo")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    add_planning_options(parser)
    parser.set_defaults(run=planning(_run))


def _servers(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 100_000:
        raise argparse.ArgumentTypeError("must be a whole number from 1 to 100000")
    return value


def _run(arguments: argparse.Namespace) -> int:
    from harness.planner.data_folder import DataFolder
    from harness.planner.demo import write_demo
    from harness.planner.hosts_file import read_hosts_file
    from harness.planner.overhead import assumed_overhead
    from reports import plan as plan_page

    folder: Path = arguments.out
    seed = 1 if arguments.seed is None else arguments.seed
    hosts = write_demo(folder, servers=arguments.servers, seed=seed, replace=arguments.replace)
    arguments.what_if = arguments.what_if or _WHAT_IFS
    arguments.seconds = arguments.seconds or _SECONDS
    plan = solve(folder / "data", read_hosts_file(hosts), assumed_overhead(), arguments)
    write(plan, folder / "plan.json", None)
    page = plan_page.render(plan, folder / "plan.html", DataFolder(folder / "data").description)
    return show_page(page, arguments)
