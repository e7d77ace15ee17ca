"""Two vCPUs that take turns on one CPU of the host's, with no operating system in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.guest.payload import PayloadFactory
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from suites import bare

BOOTS = {"short": 5, "full": 12}
OPS, EMULATED_OPS = 2_000, 50


@pytest.mark.requires_vm
@pytest.mark.usefixtures("hypervisor")
def test_world_switch(
    payload: PayloadFactory, program: Path, virt_host: Host, record_sample: RecordSample, boot: int
) -> None:
    """One vCPU wakes the other and halts: from its instructions to the other's, with the interrupt
    and the halt that the turn takes. interrupts.ipi_halt is the same between two CPUs."""
    ops = EMULATED_OPS if virt_host.emulated else OPS
    cpus = virt_host.facts.cpu_numbers[-1:]
    metric, case = "scheduler.world_switch", "world_switch"
    bare.record_interrupts(
        record_sample, metric, payload, program, case, ops, boot=boot, vcpus=2, cpus=cpus, ways=2
    )
