"""The page of a capacity plan: for those who decide about the hosts of a data centre."""

from __future__ import annotations

from pathlib import Path

from harness.planner.plan import Plan
from harness.planner.trace import Import
from reports import text
from reports.page import KeyFigure, Section
from reports.plan import amounts, checks, choices, files, fleet, machines, quality, week
from reports.plan.files import CsvFile
from reports.render import Page, html, raw, write

INTERRUPTED = (
    "The search was interrupted or ran out of time. This is the best plan found until then; a "
    "longer search may need fewer hosts."
)
MOST_BANNERS = 20
METHOD = (
    ("Host, machine", "A host is a physical server. A machine is a virtual server on it."),
    ("How machines are packed", "By the sum of their loads at each time, not by the sum of their "
     "peaks: machines that are busy at different times share a host."),
    ("Bound", "A proof that no plan can have fewer hosts. The difference between hosts and bound "
     "is the most that a better plan could save."),
    ("Usable", "What machines may use on a host: its cores, not threads, up to the target "
     "utilization, without what the host itself and its hypervisor need."),
    ("Target utilization", "How busy a host may be so that its machines still answer in time. It "
     "is measured by the consolidation suite, or assumed. See the assumptions."),
    ("Hour of the week", "One of the 168 hours from Monday 0:00 UTC. It has the highest load of "
     "all weeks at this hour."),
    ("Failure", "A host or a rack fails, and its machines are placed again. The hosts that remain "
     "may then be fuller than usual, but not overloaded."),
    ("Idle, comatose", "A machine that is switched on, while its CPU does nearly nothing."),
    ("Oversized", "A machine whose virtual CPUs or memory are far more than its highest use."),
    ("Power", "From the power curve of each type of host and its load at each time. PUE is the "
     "power of the whole data centre for each watt of its hosts: it adds cooling and losses."),
    ("CO₂", "Of the electricity of a year, and of making the hosts, spread over their life."),
    ("Costs", "Of a year. Hardware is spread over its life. What has no price is not counted."),
    ("Check on later data", "A plan is made on the first part of the trace, and the rest is run "
     "against it. So the plan is tested on load that it has not seen."),
)  # fmt: skip


def render(plan: Plan, out: Path, imported: Import | None = None) -> Path:
    """Write the page, one file below 1 MiB, and CSV files beside it.

    imported: the description of the plan's data; None where it is gone. Raises ResultError.
    """
    tables = files.csv_files(plan)
    files.write_files(tables, out)
    return write(to_html(plan, out, imported, tables), out)


def to_html(
    plan: Plan, out: Path, imported: Import | None, tables: list[CsvFile] | None = None
) -> str:
    """The page as text. out: its path, which its links are relative to."""
    tables = files.csv_files(plan) if tables is None else tables
    name = f"plan {out.stem}"
    page = Page(
        kind="Capacity plan",
        title=amounts.line(plan.headline),
        name=name,
        sections=_sections(plan, out, imported, tables),
        keys=_key_figures(plan),
        method=METHOD,
        raw=raw(f"{out.stem}-machines", files.placement(tables)),
        warnings=[
            *([INTERRUPTED] if plan.interrupted else []),
            *map(amounts.line, plan.banners[:MOST_BANNERS]),
        ],
    )
    count = sum(len(host.machines) for host in plan.hosts)
    data = amounts.line(plan.data)
    facts = (
        f"{text.count(count, 'machine')} on {text.count(plan.after.hosts, 'host')} in "
        f"{text.count(plan.after.racks, 'rack')}"
    )
    return html(
        "plan.html",
        page,
        subs=[f"Data: {data} · {facts}"],
        rows=f"All {text.count(count, 'machine')} with their hosts, one in each row",
        elsewhere="They are in the file of machines beside this page.",
        footer=f"Data: {data}.",
    )


def _key_figures(plan: Plan) -> list[KeyFigure]:
    return [*fleet.key_figures(plan), *checks.key_figures(plan)]


def _sections(
    plan: Plan, out: Path, imported: Import | None, tables: list[CsvFile]
) -> list[Section]:
    return [
        fleet.section(plan),
        week.demand_section(plan),
        week.hosts_section(plan),
        machines.section(plan),
        checks.failures_section(plan),
        choices.what_if_section(plan),
        checks.backtest_section(plan),
        choices.sensitivity_section(plan),
        choices.assumptions_section(plan),
        quality.section(plan, imported),
        files.section(plan, tables, out),
    ]
