"""Memory: the first touch of pages, cold and warm, and how far translations reach."""

from __future__ import annotations

import pytest

from harness.guest.factory import GuestFactory
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from suites.tool import record, start, time

pytestmark = pytest.mark.compare_native
BATCHES = 10
PAGES = 8192  # 32 MiB: in a guest that has just booted nobody has used so many
CHASES = {"short": (1, 32), "full": (1, 4, 16, 32, 64, 96)}  # MiB
LOADS, EMULATED_LOADS = 2_000_000, 100_000


def test_memory(
    guest_factory: GuestFactory,
    virt_host: Host,
    record_sample: RecordSample,
    virt_profile: str,
    boot: int,
) -> None:
    """First touch of pages, cold (the host has no memory behind them yet) and warm (only the
    guest's kernel works); then dependent loads, one a page: what a load costs when its translation
    is not at hand."""
    guest = guest_factory("memory")
    its_own = start(guest, "hv-ops", "fault")
    cold = time(guest, "hv-ops", "fault", PAGES, 1)
    warm = time(guest, "hv-ops", "fault", PAGES, BATCHES)
    for name, timed in (("cold", cold), ("warm", warm)):
        record(record_sample, f"memory.fault.{name}", timed, "ns", boot)
        spent = timed.spent.beyond(its_own)
        spent.record(record_sample, f"memory.fault.{name}", timed.operations, boot=boot)
    loads = EMULATED_LOADS if virt_host.emulated else LOADS
    for mib in CHASES[virt_profile]:
        timed = time(guest, "hv-ops", "chase", loads, BATCHES, "--mib", str(mib))
        record(record_sample, "memory.chase", timed, "ns", boot, {"mib": mib})
    guest.stop()
