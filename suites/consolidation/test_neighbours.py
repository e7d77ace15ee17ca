"""What a busy neighbour does to the servers beside it, and that a dying one does nothing to them.

Units: ms, and the ratio of the latency with a neighbour at work to that without, each at the
percentile of the guest's limit.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from harness.errors import WorkloadError
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.plugin.fixtures import RecordSample
from harness.results.schema import Parameter
from images.image import GuestImage
from suites.consolidation.experiment import Experiment, MakeExperiment
from suites.consolidation.generator import Window
from suites.consolidation.requests import by_target, latency_at
from suites.consolidation.tile import Tile

VICTIMS = ("web", "cache", "oltp")
# What the neighbour runs until it is killed. The disk is read past the guest's page cache.
AGGRESSORS = {
    "cpu": "stress-ng --quiet --cpu 1",
    "memory": "stress-ng --quiet --stream 1 --stream-l3-size 4m",
    "disk": "fio --name=read --filename=/usr/lib/postgresql/15/bin/postgres --readonly --direct=1"
    " --rw=randread --bs=4k --time_based --runtime=600 --output=/dev/null",
    "network": "iperf3 --client {sink} --time 600 >/dev/null",
    "exits": "while hv-exits cpuid --ops 10000 --batches 10 >/dev/null; do :; done",
}
MEMORY = 256  # MiB; fio alone maps 120 MiB
KILLED = "idle"


@pytest.fixture
def victims(tile: Tile) -> Tile:
    """The session's tile without batch and idle servers, whose few requests have no p99."""
    guests = tuple(guest for guest in tile.guests if guest.server in VICTIMS)
    if not guests:
        pytest.skip(f"the tile {tile.name} has none of the servers {', '.join(VICTIMS)}")
    return replace(tile, guests=guests)


@contextlib.contextmanager
def at_work(guest: Guest, command: str) -> Iterator[None]:
    """Run a command in the guest during the block, in a session of processes that ends with it.

    Raises WorkloadError if it did not run to the end of the block.
    """
    process = guest.ssh.popen(["setsid", "--fork", "--wait", "sh", "-c", f"echo $$; {command}"])
    session = process.readline().decode().strip()
    try:
        yield
        if guest.ssh.run(["pgrep", "--session", session], check=False).status:
            raise WorkloadError(
                f"the neighbour ended early: {process.stderr_tail().strip()[-200:]}",
                hint=f"run by hand in a guest of the workload image: {command}",
                stage="run",
                guest=guest.name,
            )
    finally:
        guest.ssh.run(["pkill", "--signal", "KILL", "--session", session], check=False)
        process.kill()


def latencies(experiment: Experiment) -> dict[str, float]:
    """By guest, at the percentile of its limit, in ms, under a load that this starts."""
    load = experiment.load()
    members = experiment.deployment.members
    parts = zip(members, by_target(load.requests, len(members)), strict=True)
    return {
        one.role.name: 1000 * latency_at(own["latency"], one.role.percentile) for one, own in parts
    }


@pytest.mark.long
@pytest.mark.exclusive_host
def test_neighbours(
    make_experiment: MakeExperiment,
    guest_factory: GuestFactory,
    workload_image: GuestImage,
    victims: Tile,
    record_sample: RecordSample,
    virt_profile: str,
) -> None:
    """Each victim beside each aggressor, between two windows without. Nobody may be lost; the
    ratios are the result."""
    experiment = make_experiment(virt_profile, victims)
    experiment.deployment.grow_to(1)
    cpus = list(experiment.deployment.cpus)
    neighbour, sink = (
        guest_factory(name, image=workload_image, memory=MEMORY, cpus=cpus)
        for name in ("neighbour", "sink")
    )
    sink.ssh.run(["iperf3", "--server", "--daemon"])
    percentiles = {guest.name: guest.percentile for guest in victims.guests}
    before = latencies(experiment)
    for name, command in AGGRESSORS.items():
        start = cpu_seconds(neighbour)
        with at_work(neighbour, command.format(sink=sink.address)):
            beside = latencies(experiment)
        used = cpu_seconds(neighbour) - start
        record_sample("consolidation.neighbour.cpu", used, "s", "none", {"aggressor": name})
        after = latencies(experiment)
        for victim, latency in beside.items():
            about: dict[str, Parameter] = {
                "victim": victim,
                "aggressor": name,
                "percentile": percentiles[victim],
            }
            alone = (before[victim] + after[victim]) / 2
            for metric, value, unit in (
                ("latency", latency, "ms"),
                ("latency_alone", alone, "ms"),
                ("ratio", latency / alone, "ratio"),
            ):
                record_finite(record_sample, f"neighbour.{metric}", value, unit, about)
        before = after
    assert not experiment.deployment.ends
    for guest in (neighbour, sink):
        guest.stop()


def cpu_seconds(guest: Guest) -> float:
    return guest.statistics()["cgroup_cpu_usec"] / 1e6


def record_finite(
    record_sample: RecordSample,
    metric: str,
    value: float,
    unit: str,
    about: Mapping[str, Parameter],
) -> None:
    """A server that did not answer has an infinite latency, of which a sample says so."""
    if math.isfinite(value):
        record_sample(f"consolidation.{metric}", value, unit, "none", about)
    elif not math.isnan(value):
        record_sample(f"consolidation.{metric}.unanswered", 1, "0 or 1", "none", about)


@pytest.mark.long
@pytest.mark.exclusive_host
def test_death(make_experiment: MakeExperiment, tile: Tile, record_sample: RecordSample) -> None:
    """A guest is killed in the middle of a load: its neighbours lose no request."""
    experiment = make_experiment("smoke", tile)
    experiment.deployment.grow_to(1)
    members = experiment.deployment.members
    killed = next((one for one in members if one.role.server == KILLED), None)
    if killed is None or len(members) == 1:
        pytest.skip(f"the tile {tile.name} has no idle server with another one beside it")
    moments: list[float] = []

    def kill_in_the_middle(window: Window) -> None:
        window.sleep_until(window.seconds / 2)
        killed.guest.stop()
        moments.append(time.time())

    load = experiment.load(kill_in_the_middle)
    for one, requests in zip(members, by_target(load.requests, len(members)), strict=True):
        if one is killed:
            continue
        assert requests["good"].all(), f"{one.role.name} lost requests"
        after = requests["scheduled"] >= moments[0]
        for when, part in (("before", requests[~after]), ("after", requests[after])):
            if part.empty:  # a batch guest has few requests
                continue
            p99 = 1000 * latency_at(part["latency"], 99)
            about = {"guest": one.role.name, "when": when}
            record_sample("consolidation.death.p99", p99, "ms", "none", about)
