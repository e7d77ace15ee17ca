"""What one more idle server costs, and how many clones of it fit.

Idle servers answer one byte a second. Units: % of one CPU, MiB, exits/s and W for each guest. Power
is that of the CPU packages, where the host counts their energy.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from statistics import mean

import pytest

from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from harness.results.schema import Better, Parameter
from suites import ksm
from suites.consolidation.accounting import WindowCost, read_memory
from suites.consolidation.deployment import Deployment, Member
from suites.consolidation.experiment import Experiment, MakeExperiment
from suites.consolidation.target import Schedule
from suites.consolidation.tile import Tile

STEPS = {"short": (0, 5, 10, 20), "full": (0, 10, 50, 100, 200)}
BOOTED_STEPS = {"short": (0, 2, 4), "full": (0, 10, 20, 50)}
SECONDS = {"short": 10.0, "full": 60.0}
DENSITY = {"short": 50, "full": 500}
ANSWER_TIMEOUT = 60.0  # seconds
# Seconds after the deployment at which the memory of clones is read.
MOMENTS = {"short": (0, 15, 30, 60), "full": (0, 60, 180, 600)}


@pytest.fixture
def idle_tile(tile: Tile) -> Tile:
    """The idle guests of the session's tile alone."""
    idle = tuple(guest for guest in tile.guests if guest.server == "idle")
    if not idle:
        pytest.skip(f"the tile {tile.name} has no idle server")
    return replace(tile, guests=idle[:1])


def memory_each(members: list[Member]) -> float:
    """MiB of the host's memory for a guest: the mean of the guests' cgroups."""
    used = [one.guest.statistics().get("cgroup_memory", 0) / (1 << 20) for one in members]
    return sum(used) / len(used)


def cost_under_requests(experiment: Experiment, seconds: float) -> WindowCost:
    """The cost of the guests while each answers its few requests. All must be answered."""
    if not experiment.deployment.members:
        return experiment.cost_of(seconds)
    schedule = Schedule(ramp=1, measure=seconds, drain=5)
    experiment.phases = replace(experiment.phases, schedule=schedule)
    cost: list[WindowCost] = []
    load = experiment.load(lambda window: cost.append(experiment.cost_in(window)))
    assert load.requests["good"].all()
    return cost[0]


@pytest.mark.long
@pytest.mark.exclusive_host
def test_ladder(
    make_experiment: MakeExperiment,
    idle_tile: Tile,
    record_sample: RecordSample,
    virt_profile: str,
) -> None:
    """CPU, memory and exits of the host at each number of idle guests."""
    experiment = make_experiment("smoke", idle_tile)
    deployment = experiment.deployment
    clones = deployment.method == "clone"
    without_guests: float | None = None  # W
    for count in (STEPS if clones else BOOTED_STEPS)[virt_profile]:
        if blocker := deployment.memory_blocker(experiment.host, count):
            print(blocker)
            break
        deployment.grow_to(count)
        time.sleep(experiment.phases.settle)
        cost = cost_under_requests(experiment, SECONDS[virt_profile])
        about: dict[str, Parameter] = {"guests": count, "deploy": deployment.method}
        busy = 100 * cost.busy / cost.seconds
        record_sample("consolidation.idle.cpu", busy, "%", "none", about)
        watts = None if cost.joules is None else cost.joules / cost.seconds
        if watts is not None:
            record_sample("consolidation.idle.power", watts, "W", "none", about)
        if not count:
            without_guests = watts
            continue
        if watts is not None and without_guests is not None:
            each = (watts - without_guests) / count
            record_sample("consolidation.idle.power_each", each, "W/guest", "lower", about)
        own = 100 * sum(cost.guest_cpu.values()) / cost.seconds / count
        record_sample("consolidation.idle.cpu_each", own, "%/guest", "lower", about)
        memory = memory_each(deployment.members)
        record_sample("consolidation.idle.memory_each", memory, "MiB/guest", "lower", about)
        if "exits" in cost.exits:
            exits = cost.exits["exits"] / cost.seconds / count
            record_sample("consolidation.idle.exits_each", exits, "exits/s", "lower", about)


@pytest.mark.long
@pytest.mark.exclusive_host
@pytest.mark.parametrize("ksm_state", ["off", "on"])
def test_density(
    make_experiment: MakeExperiment,
    idle_tile: Tile,
    record_sample: RecordSample,
    virt_profile: str,
    ksm_state: str,
) -> None:
    """Many clones at once: each answers, and none is lost. Their memory is recorded over time, with
    and without KSM, which merges equal pages that clones have written."""
    merge = ksm_state == "on"
    experiment = make_experiment("smoke", idle_tile, mergeable=merge)
    deployment, host = experiment.deployment, experiment.host
    if deployment.method != "clone":
        pytest.skip("this hypervisor has no clones; hint: use --hypervisor=kvm")
    if merge:
        ksm.skip_without(host)
    deployment.cpus = tuple(host.facts.cpu_numbers)  # no load is generated
    count = DENSITY[virt_profile]
    about: dict[str, Parameter] = {"guests": count, "ksm": ksm_state}
    start = time.monotonic()
    deployment.grow_to(count)
    seconds = time.monotonic() - start
    record_sample("consolidation.density.deploy", seconds, "s", "lower", about)
    # The scans of an emulated host take a whole CPU, which clones need until they are ready.
    with ksm.at_work(host) if merge else nullcontext():
        growth = record_memory(deployment, host, MOMENTS[virt_profile], about, record_sample)
        for one in deployment.members:
            answer = one.guest.ssh.run(["uname", "-n"], timeout=ANSWER_TIMEOUT).stdout.strip()
            assert answer == one.guest.name
    assert not deployment.ends
    record_sample("consolidation.density.growth", growth, "MiB/min", "none", about)


def record_memory(
    deployment: Deployment,
    host: Host,
    moments: Sequence[int],
    about: Mapping[str, Parameter],
    record_sample: RecordSample,
) -> float:
    """Record the memory of a clone at moments, s from now on, and the host's merged pages. Returns
    the growth of a clone's private memory in MiB a minute."""
    start = time.monotonic()
    private: list[tuple[float, float]] = []
    for moment in moments:
        time.sleep(max(0.0, start + moment - time.monotonic()))
        at = {**about, "seconds": moment}
        if about["ksm"] == "on":
            sharing = ksm.read(host, "pages_sharing")
            record_sample("consolidation.density.pages_sharing", sharing, "pages", "none", at)
        read_at = time.monotonic()
        memory = read_memory(host, [one.guest for one in deployment.members])
        assert len(memory) == len(deployment.members)
        each = {kind: mean(one[kind] for one in memory) for kind in memory[0]}
        for kind, mib in each.items():
            better: Better = "lower" if kind == "memory" else "none"
            record_sample(f"consolidation.density.{kind}_each", mib, "MiB/guest", better, at)
        private.append((read_at, each["private"]))
    (started, first), (ended, last) = private[0], private[-1]
    return (last - first) / (ended - started) * 60
