"""Exit costs in ring 3 under Linux, by hv-exits.

Unit: ns, TSC cycles and exits per operation; the exits are KVM's counts before and after the run.
Control: the empty loop. Each boot is a fresh guest that runs every case.
"""

from __future__ import annotations

import pytest

from harness.guest.factory import GuestFactory
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from suites.hypercall import exits
from suites.hypercall.exits import BATCHES, ExitCase
from suites.timing_tools import ToolRun, run_tool

pytestmark = exits.BOOTS
CONTROL = ExitCase("control", 2_000_000, 10_000_000)
SHORT_CONTROL_OPS = 1_000
CASES = (
    CONTROL,
    *(ExitCase(name, 500) for name in ("hypercall_null", "cpuid", "pio_kernel")),
    ExitCase("pio_user", 250, 10_000),
)


@pytest.mark.requires_vm
def test_exit_costs(
    guest_factory: GuestFactory, virt_host: Host, record_sample: RecordSample, boot: int
) -> None:
    """Time and exits of each case, in one fresh guest per boot."""
    # The cases cause more exits than the default limit allows.
    guest = guest_factory("exits", exit_limit=0)

    def run(case: ExitCase, ops: int) -> ToolRun:
        return run_tool(guest, "hv-exits", case.name, ops, BATCHES)

    runs = (run(case, case.ops_on(virt_host)) for case in CASES)
    exits.record(record_sample, run(CONTROL, SHORT_CONTROL_OPS), runs, ring=3, boot=boot)
    guest.stop()
