"""The scheduler: switches in the guest, and what two guests on one CPU get of it."""

from __future__ import annotations

import pytest

from harness.fixtures import RecordSample
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from suites.tool import time

BATCHES = 10
OPS = {"syscall": 200_000, "switch": 10_000}
EMULATED_OPS = {"syscall": 20_000, "switch": 1_000}
SECONDS = 4.0  # of two guests that want all of one CPU
TICKS = 100.0  # a second, of /proc/stat
AGREE = 0.25  # the guest's accounting and the host's: the one counts ticks, the other the VMM, too


@pytest.mark.baseline
@pytest.mark.parametrize("case", OPS)
def test_within_the_guest(
    guest_factory: GuestFactory, host: Host, record_sample: RecordSample, case: str, boot: int
) -> None:
    """A system call, and two context switches: neither needs the hypervisor."""
    guest = guest_factory(f"{case}-{boot}")
    ops = (EMULATED_OPS if host.emulated else OPS)[case]
    timed = time(guest, "hv-ops", case, ops, BATCHES)
    for number, batch in enumerate(timed.batches):
        value = batch["ns"] / ops
        record_sample(f"scheduler.{case}", value, "ns", "lower", boot=boot, batch=number)
    guest.stop()


def accounted(guest: Guest) -> tuple[float, float]:
    """Seconds since boot that the guest's CPU was busy, and that it was stolen while it wanted to
    be, by the guest's own accounting (/proc/stat, proc(5))."""
    words = guest.ssh.run(["head", "-1", "/proc/stat"]).stdout.split()
    user, nice, system, _, _, irq, softirq, steal = (int(word) / TICKS for word in words[1:9])
    return user + nice + system + irq + softirq, steal


@pytest.mark.machine
def test_steal(
    guest_factory: GuestFactory, host: Host, record_sample: RecordSample, boot: int
) -> None:
    """Two guests share a CPU: what each is not given it must know of as stolen, and what it takes
    for its own must be what the host gave it."""
    cpu = host.facts.cpus - 1
    guests = [guest_factory(f"steal-{name}-{boot}", cpus=[cpu]) for name in "ab"]
    before = [(*accounted(one), one.statistics()["cgroup_cpu_usec"]) for one in guests]
    burning = [one.ssh.popen(f"timeout {SECONDS:g} sh -c 'while :; do :; done'") for one in guests]
    for process in burning:
        process.wait(60.0)
    given: list[float] = []
    for guest, (busy_before, stolen_before, cpu_before) in zip(guests, before, strict=True):
        busy, stolen = accounted(guest)
        busy, stolen = busy - busy_before, stolen - stolen_before
        wanted = busy + stolen
        given.append((guest.statistics()["cgroup_cpu_usec"] - cpu_before) / 1e6)
        record_sample("scheduler.steal", 100 * stolen / wanted, "%", "", boot=boot)
        by_host = 100 * (1 - given[-1] / wanted)
        record_sample("scheduler.steal.by_host", by_host, "%", "", boot=boot)
        assert given[-1] == pytest.approx(busy, rel=AGREE)
    unfair = 100 * abs(given[0] - given[1]) / sum(given)
    record_sample("scheduler.unfairness", unfair, "%", "lower", boot=boot)
    for guest in guests:
        guest.stop()
