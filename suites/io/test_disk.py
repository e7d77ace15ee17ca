"""4 KiB requests with fio, on a virtio disk and, natively, on the host's own file below it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from harness.errors import HarnessError
from harness.guest.factory import GuestFactory
from harness.hosts.base import Host
from harness.hypervisors.base import Disk
from harness.plugin.fixtures import RecordSample
from suites.cost import Cost
from suites.io.fio import FULL, SHORT, figures

pytestmark = pytest.mark.compare_native
JOBS = {"short": SHORT, "full": FULL}
SERIAL = "scratch"


@pytest.fixture(scope="module")
def files() -> Iterator[dict[Host, str]]:
    """The file of each host: the same one for all hypervisors, whoever's turn it is."""
    made: dict[Host, str] = {}
    yield made
    for host, path in made.items():
        with contextlib.suppress(HarnessError):  # a host that was replaced took its file along
            host.run(["rm", "-f", path])


@pytest.fixture(scope="module")
def backing_file(virt_host: Host, files: dict[Host, str]) -> str:
    """A file of random bytes on the host's disk: every guest's disk in turn."""
    if virt_host in files:
        return files[virt_host]
    path = str(PurePosixPath(virt_host.scratch()) / "io-disk")
    megabytes = ["bs=1M", f"count={SHORT[0].size}", "status=none", "conv=fsync"]
    virt_host.run(["dd", "if=/dev/urandom", f"of={path}", *megabytes], timeout=120)
    files[virt_host] = path
    return path


@pytest.fixture(scope="module")
def backend(virt_host: Host) -> str:
    """Who serves every machine's disk: by default QEMU would do it by itself, by threads."""
    found = virt_host.run(["sh", "-c", "command -v qemu-storage-daemon"], check=False).status == 0
    return "vhost-user" if found else "process"


def test_disk(
    guest_factory: GuestFactory,
    record_sample: RecordSample,
    backing_file: str,
    backend: str,
    virt_profile: str,
    boot: int,
) -> None:
    """All jobs of the profile in a fresh guest, with what each request costs the host."""
    disk = Disk(backing_file, SERIAL, readonly=False, direct=True, backend=backend)
    guest = guest_factory("disk", disks=[disk])
    device = f"/dev/disk/by-serial/{SERIAL}"
    for _ in range(2):  # the first one reads fio itself from the disk
        start = Cost(guest)
        guest.ssh.run(JOBS[virt_profile][0].start(device), timeout=60)
        its_own = start.spent()
    for job in JOBS[virt_profile]:
        parameters: dict[str, str | int] = {
            "rw": job.rw,
            "bs": job.bs,
            "depth": job.depth,
        }
        if job.warm_up:
            guest.ssh.run(job.argv(device, job.warm_up), timeout=job.timeout)
        cost, argv = Cost(guest), job.argv(device, job.measured)
        found = figures(guest.ssh.run(argv, timeout=job.timeout).stdout, f"guest {guest.name}")
        spent = cost.spent().beyond(its_own)
        for name in ("iops", "clat.p50", "clat.p99", "clat.p99.9"):
            unit, better = ("IOPS", "higher") if name == "iops" else ("us", "lower")
            record_sample(f"io.{name}", found[name], unit, better, parameters, boot=boot)
        spent.record(record_sample, "io", found["requests"], parameters=parameters, boot=boot)
        # a second way to the same figure: the VMM's own count of requests (by the index of the
        # used ring where another process serves it)
        served = spent.counters.get(f"block_requests_{SERIAL}")
        assert served is None or served == pytest.approx(found["requests"], rel=0.05)
    guest.stop()
