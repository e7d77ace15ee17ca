"""4 KiB random reads of the built-in VMM and of QEMU in alternation.

    pytest benchmarks/test_disk_vs_qemu.py

Both use the same file and the same back end (qemu-storage-daemon). "disk" reads past the host's
page cache: the host's own disk takes most of the time. "cache" reads from the page cache: the path
from guest to daemon and back takes most of it.

Units: IOPS; completion latency in us; CPU time of the guest's cgroup per request (VMM, vCPUs and
daemon) in us; exits to user space per request, which should be 0 for the built-in VMM. The
benchmark prints the figures and asserts none of them.
"""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from benchmarks import pairs
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hypervisors.base import Disk, Hypervisor
from harness.plugin.fixtures import RecordSample
from suites.cost import UsageMeter
from suites.io.fio import Job, parse_figures

BOOTS, PAIRS = 2, 6  # pairs of runs in each pair of guests
JOBS = tuple(Job(depth=depth, warm_up=1, runtime=5) for depth in (1, 32))
SERIAL = "scratch"
UNITS = {"iops": "IOPS", "clat.p50": "us", "clat.p99": "us", "cpu": "us", "user_exits": "1"}


def measure(guest: Guest, job: Job) -> dict[str, float]:
    """One run of fio in the guest; "cpu" and "user_exits" are of one request."""
    device = f"/dev/disk/by-serial/{SERIAL}"
    guest.ssh.run([*job.argv(device, job.warm_up), "--readonly"], timeout=job.timeout)
    meter = UsageMeter(guest)
    argv = [*job.argv(device, job.runtime), "--readonly"]
    output = guest.ssh.run(argv, timeout=job.timeout).stdout
    usage = meter.read().counters
    values = parse_figures(output, "guest")
    requests = values["requests"]
    return {
        **values,
        "cpu": usage["cgroup_cpu_usec"] / requests,
        "user_exits": usage.get("user_exits", 0) / requests,
    }


@pytest.mark.parametrize("source", ["disk", "cache"])
def test_disk_vs_qemu(
    source: str,
    guest_factory: GuestFactory,
    hypervisor: Hypervisor,
    record_sample: RecordSample,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both guests of a pair run at once; only one of them has work at a time."""
    host, samples = hypervisor.host, pairs.PairedSamples()
    path = str(PurePosixPath(host.scratch()) / "benchmark-disk")
    count = f"count={JOBS[0].size}"
    host.run(["dd", "if=/dev/urandom", f"of={path}", "bs=1M", count, "conv=fsync"], timeout=120)
    disk = Disk(path, SERIAL, direct=source == "disk", backend="vhost-user")

    def record(job: Job, values: dict[str, float], name: str, boot: int, batch: int) -> None:
        parameters: dict[str, str | int] = {
            "rw": job.rw,
            "bs": job.bs,
            "depth": job.depth,
            "source": source,
        }
        for metric, unit in UNITS.items():
            samples.add(f"depth {job.depth} {metric}", name, values[metric])
            record_sample(
                f"io.{metric}",
                values[metric],
                unit,
                "higher" if metric == "iops" else "lower",
                parameters,
                hypervisor=name,
                boot=boot,
                batch=batch,
            )

    with pairs.guest_factories(guest_factory, hypervisor) as factories:
        for boot in range(BOOTS):
            guests = {
                name: factory(f"boot-{boot}", disks=[disk]) for name, factory in factories.items()
            }
            for batch, name in pairs.alternating_pairs(guests, PAIRS):
                for job in JOBS:
                    record(job, measure(guests[name], job), name, boot, batch)
            for guest in guests.values():
                guest.stop()
    host.run(["rm", "-f", path])
    with capsys.disabled():
        print()
        for metric in samples.values:
            unit = UNITS[metric.split()[-1]]
            print("\n".join(samples.report_lines(metric, "" if unit == "1" else unit)))
