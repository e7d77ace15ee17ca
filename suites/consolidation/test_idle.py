"""What one more idle server costs, and how many clones of it fit.

Idle servers answer one byte a second. Units: % of one CPU, MiB and exits/s for each guest.
"""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from harness.plugin.fixtures import RecordSample
from harness.results.schema import Parameter
from suites.consolidation.accounting import WindowCost
from suites.consolidation.deployment import Member
from suites.consolidation.experiment import Experiment, MakeExperiment
from suites.consolidation.target import Schedule
from suites.consolidation.tile import Tile

STEPS = {"short": (0, 5, 10, 20), "full": (0, 10, 50, 100, 200)}
BOOTED_STEPS = {"short": (0, 2, 4), "full": (0, 10, 20, 50)}
SECONDS = {"short": 10.0, "full": 60.0}
DENSITY = {"short": 50, "full": 500}
DIVERGENCE_SECONDS = {"short": 30.0, "full": 600.0}


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
        if not count:
            continue
        own = 100 * sum(cost.guest_cpu.values()) / cost.seconds / count
        record_sample("consolidation.idle.cpu_each", own, "%/guest", "lower", about)
        memory = memory_each(deployment.members)
        record_sample("consolidation.idle.memory_each", memory, "MiB/guest", "lower", about)
        if "exits" in cost.exits:
            exits = cost.exits["exits"] / cost.seconds / count
            record_sample("consolidation.idle.exits_each", exits, "exits/s", "lower", about)


@pytest.mark.long
@pytest.mark.exclusive_host
def test_density(
    make_experiment: MakeExperiment,
    idle_tile: Tile,
    record_sample: RecordSample,
    virt_profile: str,
) -> None:
    """Many clones at once: each answers, and none is lost. Their growth is recorded."""
    experiment = make_experiment("smoke", idle_tile)
    deployment = experiment.deployment
    if deployment.method != "clone":
        pytest.skip("this hypervisor has no clones; hint: use --hypervisor=kvm")
    count = DENSITY[virt_profile]
    start = time.monotonic()
    deployment.grow_to(count)
    record = {"guests": count}
    seconds = time.monotonic() - start
    record_sample("consolidation.density.deploy", seconds, "s", "lower", record)
    first = memory_each(deployment.members)
    started = time.monotonic()
    time.sleep(DIVERGENCE_SECONDS[virt_profile])
    last, minutes = memory_each(deployment.members), (time.monotonic() - started) / 60
    answers = [one.guest.ssh.run(["hostname"]).stdout.strip() for one in deployment.members]
    assert len(answers) == count
    assert all(answers)
    assert not deployment.ends
    record_sample("consolidation.density.memory_each", last, "MiB/guest", "lower", record)
    growth = (last - first) / minutes
    record_sample("consolidation.density.growth", growth, "MiB/min", "none", record)
