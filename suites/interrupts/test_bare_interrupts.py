"""Interrupt latency in ring 0 without an operating system: IPIs, the timer and an irqfd.

Unit: us and exits per interrupt. Control: a machine that only starts and ends, whose exits are
subtracted. Each boot is a fresh machine.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.guest.payload import PayloadFactory
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from suites import bare

pytestmark = [pytest.mark.requires_vm, pytest.mark.boots(short=5, full=12)]
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
    bare_program: Path,
    virt_host: Host,
    record_sample: RecordSample,
    boot: int,
    case: str,
    vcpus: int,
) -> None:
    """The latency of one kind of interrupt.

    ipi, ipi_halt: from the sender's write until it sees that the other vCPU's handler ran.
    timer_latency: from the deadline until the handler runs.
    irqfd: from a write to an ioeventfd's address until the handler of its irqfd runs. virtio
    devices in the kernel are notified and interrupt in this way.
    """
    if virt_host.facts.cpus < vcpus:
        pytest.skip(f"needs a host of {vcpus} CPUs, this has {virt_host.facts.cpus}")
    if case in bare.EVENTFDS and not bare.serves_eventfds(payload):
        pytest.skip("this hypervisor gives payloads no eventfds")
    ops = EMULATED_OPS if virt_host.emulated else OPS
    metric = f"interrupts.{case}"
    bare.record_interrupts(
        record_sample, metric, payload, bare_program, case, ops, boot=boot, vcpus=vcpus
    )
