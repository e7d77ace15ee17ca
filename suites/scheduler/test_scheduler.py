"""Scheduling: system calls and context switches in a guest, and two guests that share one host CPU.

Units: ns of a system call and of a pipe round trip; % of stolen time; us of wake-up latency.
Control: the same in containers on the host (native). Each boot is a fresh pair of guests.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from harness.guest.factory import GuestFactory, wait_ready_or_stop
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from harness.plugin.host_manager import NATIVE
from suites.cpus import can_confine, confine
from suites.timing_tools import record_batches, run_tool

BATCHES = 10
OPS = {"syscall": 200_000, "context_switch": 10_000}
EMULATED_OPS = {"syscall": 20_000, "context_switch": 1_000}
STEAL_SECONDS = 4.0  # during which both guests want the whole CPU
SLEEPS = 500
USER_HZ = 100.0  # ticks per second in /proc/stat
# of the time: the host also counts the VMM's own work and the SSH session's
STEAL_TOLERANCE = 0.2


@pytest.mark.compare_native
def test_scheduler(
    guest_factory: GuestFactory, virt_host: Host, record_sample: RecordSample, boot: int
) -> None:
    """First one guest alone. Then two guests on one host CPU: both busy, then one asleep."""
    launched = [guest_factory.launch(name) for name in ("one", "other")]
    one, other = map(wait_ready_or_stop, launched)
    measure_kernel(one, virt_host, record_sample, boot)
    for guest in (one, other):
        if not can_confine(guest):
            pytest.skip("the host gives guests no cgroup with cpuset, to share a CPU by")
        confine(guest, virt_host.facts.cpu_numbers[-1:])
    if guest_factory.hypervisor.name != NATIVE:  # a container's /proc/stat is the host's
        measure_steal((one, other), record_sample, boot)
    measure_wakeup(one, other, record_sample, boot)
    for guest in (one, other):
        guest.stop()


def measure_kernel(guest: Guest, host: Host, record_sample: RecordSample, boot: int) -> None:
    """A system call, and a pipe round trip with two context switches. Neither causes an exit."""
    for case, ops in (EMULATED_OPS if host.emulated else OPS).items():
        run = run_tool(guest, "hv-ops", case, ops, BATCHES)
        record_batches(record_sample, f"scheduler.{case}", run, "ns", boot)


def steal_and_idle(guest: Guest) -> tuple[float, float]:
    """Steal and idle time since boot, in seconds, as the guest reports them (/proc/stat, proc(5)).

    The guest's busy time is no alternative: it counts only the ticks that arrived.
    """
    words = guest.ssh.run(["head", "-1", "/proc/stat"]).stdout.split()
    return int(words[8]) / USER_HZ, (int(words[4]) + int(words[5])) / USER_HZ


def cpu_usec(guest: Guest) -> int:
    """Host CPU time of the guest's cgroup, in us."""
    return guest.statistics()["cgroup_cpu_usec"]


@dataclass(frozen=True)
class CpuReading:
    """Counters of a guest at one moment, in seconds. cpu: of its cgroup on the host."""

    time: float
    steal: float
    idle: float
    cpu: float

    @classmethod
    def of(cls, guest: Guest) -> CpuReading:
        steal, idle = steal_and_idle(guest)
        return cls(time.monotonic(), steal, idle, cpu_usec(guest) / 1e6)

    def since(self, before: CpuReading) -> CpuReading:
        """The growth of each counter."""
        return CpuReading(
            self.time - before.time,
            self.steal - before.steal,
            self.idle - before.idle,
            self.cpu - before.cpu,
        )


def measure_steal(guests: Sequence[Guest], record_sample: RecordSample, boot: int) -> None:
    """Steal time of two busy guests: as the guest reports it, and by the host's CPU accounting.

    Both figures must agree within STEAL_TOLERANCE. The guests are busy for STEAL_SECONDS, but a
    slow host takes longer to start them and to read their counters.
    """
    before = [CpuReading.of(guest) for guest in guests]
    burn = f"timeout {STEAL_SECONDS:g} sh -c 'while :; do :; done'"
    processes = [guest.ssh.popen(burn) for guest in guests]
    for process in processes:
        process.wait(60.0)
    cpu_seconds: list[float] = []
    for guest, start in zip(guests, before, strict=True):
        used = CpuReading.of(guest).since(start)
        cpu_seconds.append(used.cpu)
        accounted = used.time - used.idle - used.cpu
        for source, seconds in (("reported", used.steal), ("accounted", accounted)):
            percent = 100 * seconds / used.time
            record_sample(f"scheduler.steal.{source}", percent, "%", "none", boot=boot)
        assert used.steal == pytest.approx(accounted, abs=STEAL_TOLERANCE * used.time)
    unfairness = 100 * abs(cpu_seconds[0] - cpu_seconds[1]) / sum(cpu_seconds)
    record_sample("scheduler.unfairness", unfairness, "%", "lower", boot=boot)


def measure_wakeup(sleeper: Guest, busy: Guest, record_sample: RecordSample, boot: int) -> None:
    """By how much sleeps of 1 ms end late, while another guest keeps the CPU busy."""
    before = cpu_usec(busy)
    busy.ssh.popen("while :; do :; done")
    (latency,) = run_tool(sleeper, "hv-ops", "timer", SLEEPS, 1).batches
    busy_seconds = (cpu_usec(busy) - before) / 1e6
    assert busy_seconds > 0.3 * SLEEPS / 1e3, "the busy guest did not use the CPU"
    for name in ("p50", "p99", "max"):
        metric = f"scheduler.wakeup.overcommit.{name}"
        record_sample(metric, latency[name] / 1e3, "us", "lower", {"guests": 2}, boot=boot)
