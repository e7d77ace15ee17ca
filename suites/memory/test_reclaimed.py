"""Memory that a guest gives back, and memory that guests share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from harness.guest.factory import GuestFactory, ready
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample

pytestmark = pytest.mark.only_hypervisors("kvm")
MEMORY = 192  # MiB
TAKEN = 64  # MiB that the balloon takes
GIVEN_BACK = 0.8  # of it, at least
WITHIN = 30.0  # seconds
KSM = "/sys/kernel/mm/ksm"
MERGED_WITHIN = 60.0
PAGES_A_SCAN = 4000
PAGE = 4096


def test_balloon(guest_factory: GuestFactory, record_sample: RecordSample, boot: int) -> None:
    """The guest has touched its memory; then a balloon takes some of it. How much of that comes
    back to the host, and in which time."""
    guest = guest_factory("balloon", memory=MEMORY)
    guest.ssh.run(f"head -c {TAKEN}M /dev/zero >/dev/shm/used && rm /dev/shm/used")
    before = guest.statistics()["cgroup_memory"]
    start = time.monotonic()
    guest.balloon(TAKEN)
    while guest.balloon()["balloon_actual"] < TAKEN:
        assert time.monotonic() - start < WITHIN, "the guest does not fill its balloon"
        time.sleep(0.02)
    took = time.monotonic() - start
    back = (before - guest.statistics()["cgroup_memory"]) / (1 << 20)
    parameters = {"mib": TAKEN}
    record_sample("memory.balloon.time", took, "s", "lower", parameters, boot=boot)
    record_sample("memory.balloon.back", back, "MiB", "", parameters, boot=boot)
    assert guest.ssh.run(["true"]).status == 0
    guest.stop()
    assert back > GIVEN_BACK * TAKEN, "the balloon's memory does not come back to the host"


def _read(host: Host, name: str) -> int:
    return int(host.run(["cat", f"{KSM}/{name}"]).stdout)


@pytest.fixture
def merging(virt_host: Host) -> Iterator[None]:
    """KSM at work: switched on where the host is ours alone, and back again."""
    if virt_host.run(["test", "-w", f"{KSM}/run"], check=False).status:
        pytest.skip("the host's kernel has no KSM, or it is not ours to look at")
    was = {name: _read(virt_host, name) for name in ("run", "pages_to_scan")}
    if not virt_host.emulated and was["run"] != 1:
        pytest.skip(f"KSM is off, and this host's settings are not ours: echo 1 > {KSM}/run")
    wanted = {"run": 1, "pages_to_scan": PAGES_A_SCAN} if virt_host.emulated else {}
    with contextlib.ExitStack() as undo:
        for name, value in wanted.items():
            undo.callback(virt_host.run, ["sh", "-c", f"echo {was[name]} > {KSM}/{name}"])
            virt_host.run(["sh", "-c", f"echo {value} > {KSM}/{name}"])
        yield


@pytest.mark.usefixtures("merging")
@pytest.mark.exclusive_host
def test_ksm(guest_factory: GuestFactory, virt_host: Host, record_sample: RecordSample) -> None:
    """Two guests of one image that may share pages: how much of their memory KSM saves, once it
    finds little more."""
    others = _read(virt_host, "pages_sharing") * PAGE
    made = [guest_factory.launch(f"ksm-{name}", memory=MEMORY, mergeable=True) for name in "ab"]
    guests = list(map(ready, made))
    start, saved = time.monotonic(), -1
    while time.monotonic() - start < MERGED_WITHIN:
        time.sleep(3.0)
        # pages_sharing: how many more places there are than pages (admin-guide/mm/ksm)
        before, saved = saved, _read(virt_host, "pages_sharing") * PAGE - others
        if saved > 0 and saved - before < saved // 50:
            break
    assert saved > 0
    used = sum(one.statistics()["cgroup_memory"] for one in guests)
    record_sample("memory.ksm.saved", saved / (1 << 20), "MiB", "", {"guests": len(guests)})
    record_sample("memory.ksm.share", 100 * saved / (used + saved), "%", "", {"guests": 2})
    for guest in guests:
        assert guest.ssh.run(["true"]).status == 0
        guest.stop()
