"""Interrupts: how late a timer's is, and how long a sleeping CPU takes to be woken by another."""

from __future__ import annotations

import pytest

from harness.guest.factory import GuestFactory
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from suites.tool import record, start, time

pytestmark = pytest.mark.compare_native
SLEEPS, BATCHES = 1000, 10  # sleeps of 1 ms each; batches of what is not a sleep
TRIPS = 20_000


def test_timer(guest_factory: GuestFactory, record_sample: RecordSample, boot: int) -> None:
    """Sleeps of a millisecond on an idle CPU: each ends by the timer's interrupt, from HLT."""
    guest = guest_factory("timer")
    its_own = start(guest, "hv-ops", "timer")
    timed = time(guest, "hv-ops", "timer", SLEEPS, 1)
    (late,) = timed.batches
    for name in ("p50", "p99", "max"):
        record_sample(f"interrupts.timer.{name}", late[name] / 1e3, "us", "lower", boot=boot)
    spent = timed.spent.beyond(its_own)
    spent.record(record_sample, "interrupts.timer", timed.operations, boot=boot)
    guest.stop()


def test_wake(
    guest_factory: GuestFactory, virt_host: Host, record_sample: RecordSample, boot: int
) -> None:
    """A byte to a process that sleeps on another CPU and back: two interrupts between CPUs."""
    if virt_host.facts.cpus < 2:
        pytest.skip(f"needs a host of 2 CPUs, this has {virt_host.facts.cpus}")
    if virt_host.emulated:
        pytest.skip("a second vCPU on software CPUs is not measured: QEMU may hang")
    guest = guest_factory("wake", vcpus=2)
    its_own = start(guest, "hv-ops", "wake")
    timed = time(guest, "hv-ops", "wake", TRIPS, BATCHES)
    record(record_sample, "interrupts.wake", timed, "us", boot)
    spent = timed.spent.beyond(its_own)
    spent.record(record_sample, "interrupts.wake", timed.operations, boot=boot)
    guest.stop()
