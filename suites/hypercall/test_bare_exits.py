"""What an exit costs in ring 0, with no operating system around it: each case a machine of its own.

KVM counts all exits of the machine, so that what an operation really caused is known.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.guest.payload import PayloadFactory
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from suites import bare
from suites.hypercall import exits
from suites.hypercall.exits import BATCHES, Case

pytestmark = pytest.mark.requires_vm
BOOTS = exits.BOOTS
START = Case("control", 1_000, 1_000)
CONTROL = Case("control", 2_000_000, 10_000_000)
CASES = (
    CONTROL,
    *(Case(name, 200) for name in ("hypercall_null", "cpuid", "msr_read", "pio_kernel")),
    Case("pio_user", 100, 10_000),
    Case("mmio_user", 100, 10_000),
)
# where an eventfd can be had for a payload
EVENTFD = Case("mmio_eventfd", 200)


@pytest.mark.usefixtures("hypervisor")
def test_exit_costs(
    payload: PayloadFactory, program: Path, virt_host: Host, record_sample: RecordSample, boot: int
) -> None:
    """A boot here is a machine for each case: one cluster of samples."""

    def run(case: Case) -> bare.Ran:
        return bare.run(payload, program, case.name, case.ops_on(virt_host), BATCHES)

    cases = (*CASES, EVENTFD) if bare.serves_eventfds(payload) else CASES
    exits.record(record_sample, run(START), map(run, cases), ring=0, boot=boot)
