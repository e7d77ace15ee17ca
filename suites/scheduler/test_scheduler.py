"""The scheduler: switches in the guest, and what two guests on one CPU get of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness.guest.factory import GuestFactory, ready
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from harness.plugin.session import BASELINE
from suites.cpus import can_confine, confine
from suites.tool import record, time

BATCHES = 10
OPS = {"syscall": 200_000, "switch": 10_000}
EMULATED_OPS = {"syscall": 20_000, "switch": 1_000}
SECONDS = 4.0  # of two guests that want all of one CPU
SLEEPS = 500
TICKS = 100.0  # a second, of /proc/stat
AGREE = 0.2  # of that time: the host's accounting has the VMM's own work and the SSH session's, too


@pytest.mark.compare_native
def test_scheduler(
    guest_factory: GuestFactory, virt_host: Host, record_sample: RecordSample, boot: int
) -> None:
    """What a guest does by itself; then it shares one CPU with another: both want all of it, and
    then one sleeps beside the other."""
    made = [guest_factory.launch(name) for name in ("one", "other")]
    one, other = map(ready, made)
    within(one, virt_host, record_sample, boot)
    for guest in (one, other):
        if not can_confine(guest):
            pytest.skip("the host gives guests no cgroup with cpuset, to share a CPU by")
        confine(guest, virt_host.facts.cpu_numbers[-1:])
    if guest_factory.hypervisor.name != BASELINE:  # a container's /proc/stat is its host's
        steal((one, other), record_sample, boot)
    wakeup(one, other, record_sample, boot)
    for guest in (one, other):
        guest.stop()


def within(guest: Guest, host: Host, record_sample: RecordSample, boot: int) -> None:
    """A system call, and two context switches: neither needs the hypervisor."""
    for case, ops in (EMULATED_OPS if host.emulated else OPS).items():
        timed = time(guest, "hv-ops", case, ops, BATCHES)
        record(record_sample, f"scheduler.{case}", timed, "ns", boot)


def stolen(guest: Guest) -> float:
    """Seconds since boot in which the guest's CPU wanted to run and was not let, as the guest
    knows it (/proc/stat, proc(5)). What it counts as busy is no more than its ticks that came."""
    words = guest.ssh.run(["head", "-1", "/proc/stat"]).stdout.split()
    return int(words[8]) / TICKS


def steal(guests: Sequence[Guest], record_sample: RecordSample, boot: int) -> None:
    """What the host's own accounting did not give to one, that one must know of as stolen."""
    before = [(stolen(one), one.statistics()["cgroup_cpu_usec"]) for one in guests]
    burn = f"timeout {SECONDS:g} sh -c 'while :; do :; done'"
    burning = [one.ssh.popen(burn) for one in guests]
    for process in burning:
        process.wait(60.0)
    given: list[float] = []
    for guest, (stolen_before, cpu_before) in zip(guests, before, strict=True):
        told = stolen(guest) - stolen_before
        given.append((guest.statistics()["cgroup_cpu_usec"] - cpu_before) / 1e6)
        missed = SECONDS - given[-1]
        record_sample("scheduler.steal", 100 * told / SECONDS, "%", "", boot=boot)
        record_sample("scheduler.steal.by_host", 100 * missed / SECONDS, "%", "", boot=boot)
        assert told == pytest.approx(missed, abs=AGREE * SECONDS)
    unfair = 100 * abs(given[0] - given[1]) / sum(given)
    record_sample("scheduler.unfairness", unfair, "%", "lower", boot=boot)


def wakeup(sleeper: Guest, busy: Guest, record_sample: RecordSample, boot: int) -> None:
    """Sleeps of a millisecond in a guest whose CPU another one wants all of: how late they end."""
    before = busy.statistics()["cgroup_cpu_usec"]
    busy.ssh.popen("while :; do :; done")
    (late,) = time(sleeper, "hv-ops", "timer", SLEEPS, 1).batches
    spent = (busy.statistics()["cgroup_cpu_usec"] - before) / 1e6
    assert spent > 0.3 * SLEEPS / 1e3, "nobody was busy"
    for name in ("p50", "p99", "max"):
        metric = f"scheduler.wakeup.overcommit.{name}"
        record_sample(metric, late[name] / 1e3, "us", "lower", {"guests": 2}, boot=boot)
