"""The load generator against real guests: a container that joins the network of other guests."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from images.image import GuestImage
from suites.consolidation.generator import LoadGenerator
from suites.consolidation.requests import latency_at
from suites.consolidation.servers import SERVERS, count_answers, start_server
from suites.consolidation.target import Schedule, Target

RATE = 20  # requests a second
BACKLOG = 0.4  # seconds to answer the requests that waited


@pytest.fixture
def generator(
    guests: GuestFactory, workload_image: GuestImage, emulated_host: Host
) -> Iterator[LoadGenerator]:
    with LoadGenerator(guests, workload_image, emulated_host.facts.cpu_numbers[-1:]) as one:
        yield one


@pytest.fixture
def server(guests: GuestFactory, workload_image: GuestImage, emulated_host: Host) -> Guest:
    """A guest with CPUs of its own."""
    cpus = list(emulated_host.facts.cpu_numbers[:1])
    return guests("server", image=workload_image, memory=192, cpus=cpus)


def test_pause_of_the_guest_shows_in_the_percentiles(
    generator: LoadGenerator, server: Guest
) -> None:
    """About 1 s in 10 s, without coordinated omission: a tenth of the arrivals waits for its end.

    With a pause of P seconds, p95 is P - 0.5 s and p99 is P - 0.1 s.
    """
    start_server(server, "cache")
    target = Target("resp", str(server.address), SERVERS["cache"].port, RATE, "periodic")
    run = generator.start([target], Schedule(ramp=1, measure=10, drain=5), seed=1)
    time.sleep(5)
    start = time.monotonic()
    with server.vm.paused():
        paused = time.monotonic()
        time.sleep(1)
        resumes = time.monotonic()
    shortest, longest = resumes - paused, time.monotonic() - start
    load = run.finish()
    log = load.requests
    assert len(log) == pytest.approx(10 * RATE, abs=2)
    assert log["good"].all()
    assert latency_at(log["latency"], 50) < 0.1
    for percentile, beyond in ((95, 0.5), (99, 0.1)):
        latency = latency_at(log["latency"], percentile)
        assert shortest - beyond - 0.1 < latency < longest - beyond + BACKLOG


def test_each_server_answers_and_counts_the_same(generator: LoadGenerator, server: Guest) -> None:
    """All servers in one guest, each at its own rate, and with its own counter."""
    rates = {"web": 3.0, "cache": 3.0, "oltp": 2.0, "batch": 0.5, "idle": 1.0}
    targets = []
    for name, rate in rates.items():
        start_server(server, name, work=1 if name == "batch" else 0)
        one = SERVERS[name]
        targets.append(Target(one.protocol, str(server.address), one.port, rate, "poisson"))
    before = [count_answers(server, name) for name in rates]
    load = generator.start(targets, Schedule(0, 8, 15), seed=3).finish()
    after = [count_answers(server, name) for name in rates]
    log = load.requests
    assert not any(load.notes.values()), load.notes
    for index, (name, rate) in enumerate(rates.items()):
        own = log[log["target"] == index]
        assert own["good"].all(), f"{name}: {own[~own['good']]}"
        assert len(own) >= 1, name
        assert len(own) == pytest.approx(8 * rate, abs=5 * (8 * rate) ** 0.5), name
        counted = after[index] - before[index] - SERVERS[name].counter.own
        assert counted == load.answers[index], name


def test_status_of_the_web_server_is_for_its_guest_only(
    generator: LoadGenerator, server: Guest
) -> None:
    start_server(server, "web")
    assert count_answers(server, "web") == SERVERS["web"].counter.own
    request = f"exec 3<>/dev/tcp/{server.address}/80; printf 'GET /status HTTP/1.0\\r\\n\\r\\n' >&3"
    answer = generator.guest.ssh.run(["bash", "-c", f"{request}; cat <&3"]).stdout
    assert answer.startswith("HTTP/1.1 403 ")


def test_guest_that_dies_leaves_unanswered_requests(
    generator: LoadGenerator, server: Guest
) -> None:
    """They count as infinitely late; pgbench may lose the log of those before, too."""
    for name in ("idle", "oltp"):
        start_server(server, name)
    targets = [
        Target(SERVERS[name].protocol, str(server.address), SERVERS[name].port, 10)
        for name in ("idle", "oltp")
    ]
    run = generator.start(targets, Schedule(0, 6, 1), seed=4)
    time.sleep(3)
    server.stop()
    load = run.finish()
    for index in range(len(targets)):
        log = load.requests[load.requests["target"] == index]
        late = log[log["scheduled"] > load.start + 4]
        early = log[log["scheduled"] < load.start + 2]
        assert len(late) > 5
        assert not late["good"].any()
        assert early["good"].any() or targets[index].protocol == "pgbench"
