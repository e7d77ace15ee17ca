"""Disk performance of a guest: fio with 4 KiB requests on a virtio disk.

Units: IOPS, completion latency in us, host CPU time and exits per request, without fio's own.
Control: fio in a container (native) on the same file of the host. Each boot is a fresh guest; all
boots and hypervisors use the same file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from harness.errors import HarnessError
from harness.guest.factory import GuestFactory
from harness.hosts.base import Host
from harness.hypervisors.base import Disk, Hypervisor
from harness.hypervisors.capabilities import has_vhost_user_disks
from harness.plugin.fixtures import RecordSample
from harness.results.schema import Better
from suites.cost import UsageMeter
from suites.io.fio import FULL, SHORT, parse_figures

pytestmark = pytest.mark.compare_native
JOBS = {"short": SHORT, "full": FULL}
SERIAL = "scratch"


@pytest.fixture(scope="module")
def backing_files() -> Iterator[dict[Host, str]]:
    """The backing file of each host. All hypervisors use it; the fixture removes it at the end."""
    paths: dict[Host, str] = {}
    yield paths
    for host, path in paths.items():
        with contextlib.suppress(HarnessError):  # a host that was replaced lost its file
            host.run(["rm", "-f", path])


@pytest.fixture(scope="module")
def backing_file(virt_host: Host, backing_files: dict[Host, str]) -> str:
    """A file of random bytes on the host's disk, which backs the disk of every guest."""
    if virt_host in backing_files:
        return backing_files[virt_host]
    path = str(PurePosixPath(virt_host.scratch()) / "io-disk")
    dd_options = ["bs=1M", f"count={SHORT[0].size}", "status=none", "conv=fsync"]
    virt_host.run(["dd", "if=/dev/urandom", f"of={path}", *dd_options], timeout=120)
    backing_files[virt_host] = path
    return path


def disk_backend(hypervisor: Hypervisor) -> str:
    """The disk's back end: "vhost-user" if hypervisor and host support it, else "auto".

    All hypervisors then have the same back end. By default QEMU would serve the disk itself.
    """
    if not has_vhost_user_disks(hypervisor):
        return "auto"
    find = ["sh", "-c", "command -v qemu-storage-daemon"]
    return "auto" if hypervisor.host.run(find, check=False).status else "vhost-user"


def test_disk(
    guest_factory: GuestFactory,
    record_sample: RecordSample,
    backing_file: str,
    virt_profile: str,
    boot: int,
) -> None:
    """All jobs of the profile in one fresh guest: fio's figures, and host cost per request."""
    backend = disk_backend(guest_factory.hypervisor)
    disk = Disk(backing_file, SERIAL, readonly=False, direct=True, backend=backend)
    guest = guest_factory("disk", disks=[disk])
    device = f"/dev/disk/by-serial/{SERIAL}"
    for _ in range(2):  # the first run is discarded: it reads fio from the disk
        meter = UsageMeter(guest)
        guest.ssh.run(JOBS[virt_profile][0].startup_argv(device), timeout=60)
        startup = meter.read()
    for job in JOBS[virt_profile]:
        parameters: dict[str, str | int] = {"rw": job.rw, "bs": job.bs, "depth": job.depth}
        if job.warm_up:
            guest.ssh.run(job.argv(device, job.warm_up), timeout=job.timeout)
        meter, argv = UsageMeter(guest), job.argv(device, job.runtime)
        result = parse_figures(
            guest.ssh.run(argv, timeout=job.timeout).stdout, f"guest {guest.name}"
        )
        usage = meter.read().minus(startup)
        for name in ("iops", "clat.p50", "clat.p99", "clat.p99.9"):
            unit: str = "IOPS" if name == "iops" else "us"
            better: Better = "higher" if name == "iops" else "lower"
            record_sample(f"io.{name}", result[name], unit, better, parameters, boot=boot)
        usage.record(record_sample, "io", result["requests"], parameters=parameters, boot=boot)
        # fio and the VMM must agree on the number of requests. If another process serves the disk,
        # the VMM reads the index of the used ring.
        requests = usage.counters.get(f"block_requests_{SERIAL}")
        assert requests is None or requests == pytest.approx(result["requests"], rel=0.05)
    guest.stop()
