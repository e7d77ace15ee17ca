"""What a reader of a plan must know: banners, and the table of assumptions."""

from __future__ import annotations

from collections.abc import Iterator

from harness.planner import advice
from harness.planner.cases import VIEW_ASSUMPTION
from harness.planner.hosts_file import GIVEN
from harness.planner.model import MODEL_ASSUMPTIONS, host_costs
from harness.planner.plan import Assumption
from harness.planner.plan_inputs import WEEK, PlanInputs
from harness.planner.today import untyped_hosts
from harness.planner.verification import HostLoads


def banners(inputs: PlanInputs, refused: tuple[str, ...], loads: HostLoads) -> tuple[str, ...]:
    """Sentences that a reader must see first. refused: what-ifs that cannot be planned."""
    found = list(inputs.base.model.overhead.banners)
    days = inputs.profile.grid.days
    if not inputs.has_trace:
        found.append("No machine has a trace: all are planned by what is allocated to them.")
    elif days < WEEK:
        found.append(
            f"The trace covers {days:.1f} days. With less than {WEEK:g} days, the busiest hour of "
            "the week may be missing."
        )
    untyped = untyped_hosts(inputs.profile.machines, inputs.hosts)
    today = inputs.hosts.today
    if untyped and (today is None or today.servers == "hosts"):
        found.append(
            f"hosts.toml has no type for {len(untyped)} hosts of today, such as {untyped[0]}, so "
            "the plan has no totals of today. Add [today] with their type."
        )
    if over := int(loads.over_target().any(axis=1).sum()):
        found.append(f"{over} hosts exceed their target at some sample. Do not use this plan.")
    return (*found, *refused)


def assumptions(inputs: PlanInputs) -> tuple[Assumption, ...]:
    """Every value that was not measured here, and what was given."""
    return tuple(_assumptions(inputs))


def _assumptions(inputs: PlanInputs) -> Iterator[Assumption]:
    model, options = inputs.base.model, inputs.options
    yield from model.overhead.assumptions
    if inputs.profile.means_only.any():
        text = f"{model.burst:g} times the mean of {inputs.profile.grid.step:g} s"
        yield Assumption("CPU demand within a step", text, GIVEN if model.burst > 1 else "assumed")
    yield from inputs.profile.assumptions
    yield from MODEL_ASSUMPTIONS
    if options.idle_factor != 1:
        yield Assumption("idle watts", f"{options.idle_factor:g} times the curve", GIVEN)
    types = list(inputs.base.types)
    if inputs.hosts.today:
        types.append(inputs.hosts.type_of(inputs.hosts.today.type))
    for one in dict.fromkeys(types):
        yield from one.assumptions
    yield from inputs.hosts.site.assumptions
    _, choice = host_costs(inputs.base.types, inputs.base.site)
    if choice:
        yield choice
    yield from advice.ASSUMPTIONS
    yield VIEW_ASSUMPTION
