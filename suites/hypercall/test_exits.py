"""What an exit costs in ring 3: the same loop with an instruction that exits, and without.

The tool in the guest (hv-exits) times batches; KVM's own counters before and after say how many
exits an operation really caused.
"""

from __future__ import annotations

import pytest

from harness.guest.factory import GuestFactory
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from suites.hypercall import exits
from suites.hypercall.exits import BATCHES, Case
from suites.tool import Timed, time

BOOTS = exits.BOOTS
CONTROL = Case("control", 2_000_000, 10_000_000)
CASES = (
    CONTROL,
    *(Case(name, 500) for name in ("hypercall_null", "cpuid", "pio_kernel")),
    Case("pio_user", 250, 10_000),
)


@pytest.mark.requires_vm
def test_exit_costs(
    guest_factory: GuestFactory, virt_host: Host, record_sample: RecordSample, boot: int
) -> None:
    """Every case in a fresh guest: a boot is one cluster of samples."""
    guest = guest_factory("exits", exit_limit=0)  # a storm is what is measured here

    def run(case: Case, ops: int) -> Timed:
        return time(guest, "hv-exits", case.name, ops, BATCHES)

    counted = (run(case, case.ops_on(virt_host)) for case in CASES)
    exits.record(record_sample, run(CONTROL, 1_000), counted, ring=3, boot=boot)
    guest.stop()
