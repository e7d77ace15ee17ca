"""Start-up time of clones of a running guest, and of several guests at once.

Unit: seconds from the creation of a clone to each stage. Control: boot.* of suites/boot/test_boot.
Each boot is a fresh origin with CLONES clones.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.guest.factory import GuestFactory, wait_ready_or_stop
from harness.guest.timeline import CLONE_STAGES
from harness.plugin.fixtures import RecordSample

pytestmark = pytest.mark.requires_vm
CLONES = 4  # of one origin
MEMORY = 128  # MiB
CONCURRENT_GUESTS = 3


@pytest.mark.only_hypervisors("kvm")
def test_clone(guest_factory: GuestFactory, record_sample: RecordSample, boot: int) -> None:
    """Seconds from creation to restored, adopted (the clone has its own identity) and ready.

    The parameter `clone` separates the first clone of a snapshot from later ones. The first clone
    records which pages a clone writes; later clones get these pages in advance.
    """
    origin = guest_factory("origin", memory=MEMORY)
    origin.ssh.disconnect()
    with origin.snapshot() as snapshot:
        origin.stop()
        for batch in range(CLONES):
            clone = guest_factory.clone(snapshot, "clone")
            parameters: dict[str, int | str] = {
                "vcpus": origin.spec.vcpus,
                "memory": MEMORY,
                "clone": "later" if batch else "first",
            }
            seconds = [clone.timeline.seconds(stage) for stage in CLONE_STAGES[1:]]
            assert sorted(seconds) == seconds
            for stage, value in zip(CLONE_STAGES[1:], seconds, strict=True):
                metric = f"boot.clone.{stage}"
                record_sample(metric, value, "s", "lower", parameters, boot=boot, batch=batch)
            clone.stop()


def test_concurrent_boots(
    guest_factory: GuestFactory, record_sample: RecordSample, boot: int
) -> None:
    """Several guests that start together: seconds from the first creation to the last login."""
    guests = [guest_factory.launch("concurrent", memory=MEMORY) for _ in range(CONCURRENT_GUESTS)]
    with ThreadPoolExecutor(CONCURRENT_GUESTS) as pool:
        marks = [guest.timeline.marks for guest in pool.map(wait_ready_or_stop, guests)]
    seconds = (max(one["ready"] for one in marks) - min(one["create"] for one in marks)) / 1e9
    parameters = {"guests": CONCURRENT_GUESTS, "memory": MEMORY}
    record_sample("boot.concurrent", seconds, "s", "lower", parameters, boot=boot)
    for guest in guests:
        guest.stop()
