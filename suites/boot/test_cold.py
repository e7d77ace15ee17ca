"""How long a boot takes whose files the host has to read from its disk."""

from __future__ import annotations

import pytest

from harness.guest.factory import GuestFactory
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from suites.boot import stages

pytestmark = pytest.mark.requires_vm


def test_cold(
    guest_factory: GuestFactory, virt_host: Host, record_sample: RecordSample, boot: int
) -> None:
    """As boot.*, with nothing in the host's page cache. QEMU itself is read, too; the built-in VMM
    is there before its guests are."""
    if not virt_host.emulated:
        pytest.skip("it would empty the host's page cache, which others use, too")
    guest_factory("placed").stop()  # what a first guest has copied would be in the cache again
    virt_host.run(["sh", "-c", "sync; echo 1 > /proc/sys/vm/drop_caches"])
    guest = guest_factory("cold")
    stages.record(record_sample, guest, "boot.cold", boot)
    guest.stop()
