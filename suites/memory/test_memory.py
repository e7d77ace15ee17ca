"""Guest memory: page faults, cold and warm, and dependent loads over growing working sets.

Unit: ns per page fault or load; host CPU time and exits per page fault, without the tool's own.
Control: the same in a container on the host (native). Each boot is a fresh guest.
"""

from __future__ import annotations

import pytest

from harness.guest.factory import GuestFactory
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from suites.timing_tools import record_batches, run_tool, startup_usage

pytestmark = pytest.mark.compare_native
BATCHES = 10
PAGES = 8192  # 32 MiB: a freshly booted guest has more memory than this that it has not touched
WORKING_SETS = {"short": (1, 32), "full": (1, 4, 16, 32, 64, 96)}  # MiB
LOADS, EMULATED_LOADS = 2_000_000, 100_000


def test_memory(
    guest_factory: GuestFactory,
    virt_host: Host,
    record_sample: RecordSample,
    virt_profile: str,
    boot: int,
) -> None:
    """Page faults, then a pointer chase with one load per page.

    Cold: the host has no memory behind the pages yet. Warm: only the guest's kernel works. Beyond
    the TLB's reach, a load of the chase costs a page walk.
    """
    guest = guest_factory("memory")
    startup = startup_usage(guest, "hv-ops", "page_fault")
    cold = run_tool(guest, "hv-ops", "page_fault", PAGES, 1)
    warm = run_tool(guest, "hv-ops", "page_fault", PAGES, BATCHES)
    for name, run in (("cold", cold), ("warm", warm)):
        metric = f"memory.page_fault.{name}"
        record_batches(record_sample, metric, run, "ns", boot)
        usage = run.usage.minus(startup)
        usage.record(record_sample, metric, run.operations, boot=boot)
    loads = EMULATED_LOADS if virt_host.emulated else LOADS
    for mib in WORKING_SETS[virt_profile]:
        run = run_tool(guest, "hv-ops", "pointer_chase", loads, BATCHES, "--mib", str(mib))
        record_batches(record_sample, "memory.pointer_chase", run, "ns", boot, {"mib": mib})
    guest.stop()
