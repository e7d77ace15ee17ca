"""Boot time with an empty page cache: the host reads the guest's files from its disk.

Unit: seconds from the guest's creation to each stage. Control: boot.* of suites/boot/test_boot.
Each boot is a fresh guest.
"""

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
    """Seconds to each stage after the page cache is dropped.

    The host also reads QEMU's program again; the built-in VMM is in memory before its guests start.
    """
    if not virt_host.emulated:
        pytest.skip("dropping the page cache would disturb other users of this host")
    # The first guest copies the image to the host, which fills the page cache.
    guest_factory("placed").stop()
    virt_host.run(["sh", "-c", "sync; echo 1 > /proc/sys/vm/drop_caches"])
    guest = guest_factory("cold")
    stages.record(record_sample, guest, "boot.cold", boot)
    guest.stop()
