"""Memory that the host reclaims: by the balloon, and by KSM's sharing of equal pages.

Units: MiB that the host reclaims, seconds of the balloon's inflation, % of memory that KSM saves.
The balloon is measured once per boot, KSM once per session.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from harness.guest.factory import GuestFactory, wait_ready_or_stop
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from suites import ksm

pytestmark = pytest.mark.only_hypervisors("kvm")
MEMORY = 192  # MiB
BALLOON = 64  # MiB
MIN_RECLAIMED = 0.8  # of the balloon's size
INFLATION_TIMEOUT = 30.0  # seconds
KSM_TIMEOUT = 60.0  # seconds
PAGE = 4096


def test_balloon(guest_factory: GuestFactory, record_sample: RecordSample, boot: int) -> None:
    """A guest that has touched its memory inflates a balloon: time, and memory reclaimed."""
    guest = guest_factory("balloon", memory=MEMORY)
    guest.ssh.run(f"head -c {BALLOON}M /dev/zero >/dev/shm/used && rm /dev/shm/used")
    before = guest.statistics()["cgroup_memory"]
    start = time.monotonic()
    guest.balloon(BALLOON)
    while guest.balloon()["balloon_actual"] < BALLOON:
        assert time.monotonic() - start < INFLATION_TIMEOUT, "the guest does not fill its balloon"
        time.sleep(0.02)
    seconds = time.monotonic() - start
    reclaimed = (before - guest.statistics()["cgroup_memory"]) / (1 << 20)
    parameters = {"mib": BALLOON}
    record_sample("memory.balloon.time", seconds, "s", "lower", parameters, boot=boot)
    record_sample("memory.balloon.reclaimed", reclaimed, "MiB", "none", parameters, boot=boot)
    assert guest.ssh.run(["true"]).status == 0
    guest.stop()
    assert reclaimed > MIN_RECLAIMED * BALLOON, "the host does not reclaim the balloon's memory"


@pytest.fixture
def ksm_at_work(virt_host: Host) -> Iterator[None]:
    with ksm.at_work(virt_host):
        yield


@pytest.mark.usefixtures("ksm_at_work")
@pytest.mark.exclusive_host
def test_ksm(guest_factory: GuestFactory, virt_host: Host, record_sample: RecordSample) -> None:
    """Memory that KSM saves for two guests of one image, when a scan finds little more."""
    before = ksm.read(virt_host, "pages_sharing") * PAGE
    launched = [guest_factory.launch(f"ksm-{name}", memory=MEMORY, mergeable=True) for name in "ab"]
    guests = list(map(wait_ready_or_stop, launched))
    start, reclaimed = time.monotonic(), -1
    while time.monotonic() - start < KSM_TIMEOUT:
        time.sleep(3.0)
        last, reclaimed = reclaimed, ksm.read(virt_host, "pages_sharing") * PAGE - before
        if reclaimed > 0 and reclaimed - last < reclaimed // 50:
            break
    assert reclaimed > 0
    used = sum(one.statistics()["cgroup_memory"] for one in guests)
    parameters = {"guests": len(guests)}
    share = 100 * reclaimed / (used + reclaimed)
    record_sample("memory.ksm.reclaimed", reclaimed / (1 << 20), "MiB", "none", parameters)
    record_sample("memory.ksm.reclaimed_share", share, "%", "none", parameters)
    for guest in guests:
        assert guest.ssh.run(["true"]).status == 0
        guest.stop()
