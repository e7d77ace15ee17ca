"""Exit costs in ring 0 without an operating system, by the bare program (suites/bare).

Unit: ns, TSC cycles and exits per operation. Control: the empty loop. In each boot, every case runs
in a machine of its own; KVM counts all exits of that machine.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.guest.payload import PayloadFactory
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from suites import bare
from suites.hypercall import exits
from suites.hypercall.exits import BATCHES, ExitCase

pytestmark = [pytest.mark.requires_vm, exits.BOOTS]
SHORT_CONTROL = ExitCase("control", 1_000, 1_000)
CONTROL = ExitCase("control", 2_000_000, 10_000_000)
CASES = (
    CONTROL,
    *(ExitCase(name, 200) for name in ("hypercall_null", "cpuid", "msr_read", "pio_kernel")),
    ExitCase("pio_user", 100, 10_000),
    ExitCase("mmio_user", 100, 10_000),
)
# only on a hypervisor that gives payloads eventfds
EVENTFD_CASE = ExitCase("mmio_eventfd", 200)


@pytest.mark.usefixtures("hypervisor")
def test_exit_costs(
    payload: PayloadFactory,
    bare_program: Path,
    virt_host: Host,
    record_sample: RecordSample,
    boot: int,
) -> None:
    """Time and exits of each case. A boot has one machine for each case."""

    def run(case: ExitCase) -> bare.BareRun:
        return bare.run(payload, bare_program, case.name, case.ops_on(virt_host), BATCHES)

    cases = (*CASES, EVENTFD_CASE) if bare.serves_eventfds(payload) else CASES
    exits.record(record_sample, run(SHORT_CONTROL), map(run, cases), ring=0, boot=boot)
