"""Interrupt latency under Linux: sleeps that end by the timer, and wake-ups between CPUs.

Unit: us; host CPU time and exits per operation, without the tool's own. Control: the same in a
container on the host (native). Each boot is a fresh guest.
"""

from __future__ import annotations

import pytest

from harness.guest.factory import GuestFactory
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from suites.timing_tools import record_batches, run_tool, startup_usage

pytestmark = pytest.mark.compare_native
SLEEPS = 1000  # of 1 ms each
ROUND_TRIPS, BATCHES = 20_000, 10


def test_timer(guest_factory: GuestFactory, record_sample: RecordSample, boot: int) -> None:
    """By how much sleeps of 1 ms end late. The idle CPU waits in HLT for the timer interrupt."""
    guest = guest_factory("timer")
    startup = startup_usage(guest, "hv-ops", "timer")
    run = run_tool(guest, "hv-ops", "timer", SLEEPS, 1)
    (latency,) = run.batches
    for name in ("p50", "p99", "max"):
        record_sample(f"interrupts.timer.{name}", latency[name] / 1e3, "us", "lower", boot=boot)
    usage = run.usage.minus(startup)
    usage.record(record_sample, "interrupts.timer", run.operations, boot=boot)
    guest.stop()


def test_wakeup(
    guest_factory: GuestFactory, virt_host: Host, record_sample: RecordSample, boot: int
) -> None:
    """A pipe round trip to a process that sleeps on another CPU: an IPI in each direction."""
    if virt_host.facts.cpus < 2:
        pytest.skip(f"needs a host of 2 CPUs, this has {virt_host.facts.cpus}")
    if virt_host.emulated:
        pytest.skip("a second vCPU on software CPUs is not measured: QEMU may hang")
    guest = guest_factory("wakeup", vcpus=2)
    startup = startup_usage(guest, "hv-ops", "wakeup")
    run = run_tool(guest, "hv-ops", "wakeup", ROUND_TRIPS, BATCHES)
    record_batches(record_sample, "interrupts.wakeup", run, "us", boot)
    usage = run.usage.minus(startup)
    usage.record(record_sample, "interrupts.wakeup", run.operations, boot=boot)
    guest.stop()
