"""4 KiB random reads, our VMM and QEMU in turn: same file, same back end (qemu-storage-daemon).

    pytest benchmarks/test_disk_vs_qemu.py

Once past the host's page cache, where the host's own disk takes most of the time, and once from
it, where the way from guest to daemon and back is most of it. Prints I/O per second, latency, CPU
time an I/O of all that serves the guest (its cgroup: VMM, vCPUs and daemon), and our exits to user
space an I/O, which should be 0.
"""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from benchmarks import pairs
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.base import Disk, Hypervisor
from harness.plugin.fixtures import RecordSample
from suites.io.fio import Job, figures

BOOTS, PAIRS = 2, 6  # pairs of runs in each pair of guests
JOBS = tuple(Job(depth=depth, warm_up=1, measured=5) for depth in (1, 32))
SERIAL = "scratch"
UNITS = {"iops": "IOPS", "clat.p50": "us", "clat.p99": "us", "cpu": "us", "user_exits": ""}


def cpu_us(host: Host, guest: Guest) -> int:
    """CPU time of a guest's cgroup so far, microseconds."""
    words = host.run(["cat", f"{guest.facts['cgroup']}/cpu.stat"]).stdout.split()
    return int(words[words.index("usage_usec") + 1])


def measure(host: Host, guest: Guest, job: Job) -> dict[str, float]:
    """One run of fio in the guest; "cpu" and "user_exits" are for each I/O."""
    device = f"/dev/disk/by-serial/{SERIAL}"
    guest.ssh.run([*job.argv(device, job.warm_up), "--readonly"], timeout=job.timeout)
    argv = [*job.argv(device, job.measured), "--readonly"]
    exits, cpu = guest.statistics().get("user_exits", 0), cpu_us(host, guest)
    text = guest.ssh.run(argv, timeout=job.timeout).stdout
    cpu, exits = (
        cpu_us(host, guest) - cpu,
        guest.statistics().get("user_exits", 0) - exits,
    )
    found = figures(text, "guest")
    count = found["requests"]
    return {**found, "cpu": cpu / count, "user_exits": exits / count}


@pytest.mark.parametrize("source", ["disk", "cache"])
def test_disk_vs_qemu(
    source: str,
    guest_factory: GuestFactory,
    hypervisor: Hypervisor,
    record_sample: RecordSample,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both guests of a pair stand at once; only one of them works at a time."""
    host, found = hypervisor.host, pairs.Found()
    path = str(PurePosixPath(host.scratch()) / "benchmark-disk")
    count = f"count={JOBS[0].size}"
    host.run(["dd", "if=/dev/urandom", f"of={path}", "bs=1M", count, "conv=fsync"], timeout=120)
    disk = Disk(path, SERIAL, direct=source == "disk", backend="vhost-user")
    with pairs.sides(guest_factory, hypervisor) as factories:
        for boot in range(BOOTS):
            guests = {
                name: factory(f"boot-{boot}", disks=[disk]) for name, factory in factories.items()
            }
            for batch, name in pairs.in_turn(guests, PAIRS):
                for job in JOBS:
                    for metric, value in measure(host, guests[name], job).items():
                        if metric not in UNITS:
                            continue
                        found.add(f"depth {job.depth} {metric}", name, value)
                        record_sample(
                            f"io.{metric}",
                            value,
                            UNITS[metric] or "1",
                            "higher" if metric == "iops" else "lower",
                            {"rw": job.rw, "bs": job.bs, "depth": job.depth, "source": source},
                            hypervisor=name,
                            boot=boot,
                            batch=batch,
                        )
            for guest in guests.values():
                guest.stop()
    host.run(["rm", "-f", path])
    with capsys.disabled():
        print()
        for metric in found.values:
            print("\n".join(found.lines(metric, UNITS[metric.split()[-1]])))
