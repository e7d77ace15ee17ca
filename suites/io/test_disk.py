"""4 KiB random reads: fio in the guest on a virtio disk, and on the host on the same file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from harness.fixtures import RecordSample
from harness.guest.factory import GuestFactory
from harness.hosts.base import Host
from harness.hypervisors.base import Disk
from suites.io.fio import Job, figures

BOOTS = 3
JOB = Job()
SERIAL = "scratch"


@pytest.fixture(scope="module")
def backing_file(host: Host) -> Iterator[str]:
    """A file of random bytes on the host's disk: the guest's disk, and the host's own workload."""
    path = str(PurePosixPath(host.scratch()) / "io-disk")
    megabytes = ["bs=1M", f"count={JOB.size}", "status=none", "conv=fsync"]
    host.run(["dd", "if=/dev/urandom", f"of={path}", *megabytes], timeout=120)
    yield path
    host.run(["rm", "-f", path])


@pytest.mark.parametrize("boot", range(BOOTS))
def test_random_read(
    guest_factory: GuestFactory,
    host: Host,
    record_sample: RecordSample,
    backing_file: str,
    boot: int,
) -> None:
    """Host, then guest, in turn, so that what drifts with time hits both."""
    job = JOB
    timeout = 60.0 + job.warm_up + job.measured
    parameters: dict[str, str | int | float] = {"rw": job.rw, "bs": job.bs, "depth": job.depth}

    def record(found: dict[str, float], hypervisor: str | None) -> None:
        for name, value in found.items():
            unit, better = ("IOPS", "higher") if name == "iops" else ("us", "lower")
            record_sample(
                f"io.{name}", value, unit, better, parameters, hypervisor=hypervisor, boot=boot
            )

    record(figures(host.run(job.argv(backing_file), timeout=timeout).stdout, "host"), "native")
    disk = Disk(backing_file, SERIAL, readonly=True, direct=True)
    guest = guest_factory(f"disk-{boot}", disks=[disk])
    before = guest.statistics()
    argv = [*job.argv(f"/dev/disk/by-serial/{SERIAL}"), "--readonly"]
    found = figures(guest.ssh.run(argv, timeout=timeout).stdout, "guest")
    record(found, None)
    # a second way to the same figure: the VMM's own count of requests (by the index of the used
    # ring where another process serves it), warm-up included
    counter = f"block_requests_{SERIAL}"
    if counter in before:
        served = guest.statistics()[counter] - before[counter]
        assert served >= found["iops"] * job.measured * 0.9
    guest.stop()
