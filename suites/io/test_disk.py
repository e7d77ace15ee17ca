"""4 KiB random reads: fio in the guest on a virtio disk, and on the host on the same file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pytest

from harness.errors import WorkloadError
from harness.fixtures import RecordSample
from harness.guest.factory import GuestFactory
from harness.hosts.base import Host
from harness.hypervisors.base import Disk

BOOTS = 3
SIZE_MIB = 64
WARM_UP, MEASURED = 2, 5  # seconds; the short profile
SERIAL = "scratch"
PERCENTILES = {"p50": "50.000000", "p99": "99.000000", "p99.9": "99.900000"}


@dataclass(frozen=True)
class Job:
    """One fio job; the same words on both sides."""

    rw: str = "randread"
    bs: int = 4096
    depth: int = 1

    def argv(self, filename: str) -> list[str]:
        return [
            *("fio", "--name=job", f"--filename={filename}", f"--rw={self.rw}"),
            *(f"--bs={self.bs}", f"--iodepth={self.depth}", "--ioengine=libaio", "--direct=1"),
            *(f"--size={SIZE_MIB}M", "--time_based", f"--ramp_time={WARM_UP}"),
            *(f"--runtime={MEASURED}", "--randseed=1", "--output-format=json"),
            *("--lat_percentiles=0", "--clat_percentiles=1", "--percentile_list=50:99:99.9"),
        ]


def figures(text: str, where: str) -> dict[str, float]:
    """IOPS and completion latencies (us) of fio's JSON. Raises WorkloadError for anything else."""
    try:
        # fio may print a warning before its JSON
        read: dict[str, Any] = json.loads(text[text.index("{") :])["jobs"][0]["read"]
        found = {"iops": float(read["iops"])}
        for name, key in PERCENTILES.items():
            found[f"clat.{name}"] = read["clat_ns"]["percentile"][key] / 1e3
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise WorkloadError(
            f"fio on the {where} printed no usable JSON: {text[-200:]!r}",
            mend="run its command by hand there",
            stage="run",
        ) from error
    if not found["iops"] > 0:
        raise WorkloadError(f"fio on the {where} made no request", stage="run")
    return found


@pytest.fixture(scope="module")
def backing_file(host: Host) -> Iterator[str]:
    """A file of random bytes on the host's disk: the guest's disk, and the host's own workload."""
    path = str(PurePosixPath(host.scratch()) / "io-disk")
    megabytes = ["bs=1M", f"count={SIZE_MIB}", "status=none", "conv=fsync"]
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
    job = Job()
    timeout = 60.0 + WARM_UP + MEASURED
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
    # a second way to the same figure: the VMM's own count of requests, warm-up included
    counter = f"block_requests_{SERIAL}"
    if counter in before:
        served = guest.statistics()[counter] - before[counter]
        assert served >= found["iops"] * MEASURED * 0.9
    guest.stop()
