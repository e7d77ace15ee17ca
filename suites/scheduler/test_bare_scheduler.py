"""World switches: two vCPUs without an operating system alternate on one host CPU.

Unit: us and exits per switch. Control: a machine that only starts and ends, whose exits are
subtracted. Each boot is a fresh machine.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.guest.payload import PayloadFactory
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from suites import bare

pytestmark = pytest.mark.boots(short=5, full=12)
OPS, EMULATED_OPS = 2_000, 50


@pytest.mark.requires_vm
@pytest.mark.usefixtures("hypervisor")
def test_world_switch(
    payload: PayloadFactory,
    bare_program: Path,
    virt_host: Host,
    record_sample: RecordSample,
    boot: int,
) -> None:
    """One vCPU wakes the other by an IPI and halts, until the other runs.

    interrupts.ipi_halt measures a similar wake-up between two host CPUs.
    """
    ops = EMULATED_OPS if virt_host.emulated else OPS
    bare.record_interrupts(
        record_sample,
        "scheduler.world_switch",
        payload,
        bare_program,
        "world_switch",
        ops,
        boot=boot,
        vcpus=2,
        cpus=virt_host.facts.cpu_numbers[-1:],
        interrupts_per_op=2,
    )
