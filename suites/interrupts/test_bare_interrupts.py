"""Interrupts in ring 0, with no operating system around them: between CPUs, and the timer's."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.guest.payload import PayloadFactory
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from suites import bare

pytestmark = pytest.mark.requires_vm
BOOTS = {"short": 5, "full": 12}
OPS, EMULATED_OPS = 2_000, 50


@pytest.mark.usefixtures("hypervisor")
@pytest.mark.parametrize(
    ("case", "vcpus"),
    [
        pytest.param("ipi", 2, id="to-a-running-cpu"),
        pytest.param("ipi_halt", 2, id="to-a-halted-cpu"),
        pytest.param("timer_latency", 1, id="timer"),
        pytest.param("irqfd", 1, id="by-an-eventfd"),
    ],
)
def test_interrupt(
    payload: PayloadFactory,
    program: Path,
    virt_host: Host,
    record_sample: RecordSample,
    boot: int,
    case: str,
    vcpus: int,
) -> None:
    """ipi, ipi_halt: from the sender's write to its seeing that the other CPU's handler ran.
    timer_latency: by how much the handler is later than the deadline that was set. irqfd: from a
    write that KVM hands to an eventfd until the handler that this eventfd interrupts for, as
    virtio's kicks and answers are when their devices are in the kernel."""
    if virt_host.facts.cpus < vcpus:
        pytest.skip(f"needs a host of {vcpus} CPUs, this has {virt_host.facts.cpus}")
    if case in bare.EVENTFDS and not bare.serves_eventfds(payload):
        pytest.skip("this hypervisor gives payloads no eventfds")
    ops = EMULATED_OPS if virt_host.emulated else OPS
    metric = f"interrupts.{case}"
    bare.record_interrupts(
        record_sample, metric, payload, program, case, ops, boot=boot, vcpus=vcpus
    )
