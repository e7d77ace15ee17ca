"""Prints counters of a host and of guests' cgroups as one JSON object. It runs on the host.

    python3 -I -S host_counters.py SECONDS [--memory] < cgroups

The counters are read at this moment of CLOCK_MONOTONIC, or at once if it has passed. The input has
the directory of a cgroup on each line. The object has "time" (s of CLOCK_MONOTONIC), "cpus"
(number: idle and stolen seconds), "swapped" (pages), "disks" (bytes read from and written to block
devices), "pressure" (resource: seconds in which a task waited for it), "energy" (zone of a CPU
package: J, and J at which its counter wraps), "interfaces" (name: bytes received and sent, in the
network namespace of this process) and "groups". That has for each cgroup that exists "cpu" (s),
"memory" (bytes, as the cgroup counts), "disks" (where its controller io counts them), "threads"
(id: clock ticks in guest mode, s on a CPU, s of waiting for one) and with --memory "private",
"shared" and "merged" (bytes that its processes have mapped).

Sources: proc(5); Documentation/admin-guide/cgroup-v2.rst, accounting/psi.rst,
scheduler/sched-stats.rst, admin-guide/mm/ksm.rst and power/powercap/powercap.rst in the Linux
sources.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# proc(5): user nice system idle iowait irq softirq steal. The kernel measures idle time and steal;
# it counts ticks for the others, which miss work that ends before the next tick.
_IDLE, _STEAL = (3, 4), 7
_ENERGY = ("energy_uj", "max_energy_range_uj")
_GUEST_TIME = 40  # of /proc/PID/stat, counted from the word after the name


def read(path: str) -> str:
    return Path(path).read_text("ascii", "replace")


def table(text: str) -> dict[str, int]:
    """The numbers of lines "NAME NUMBER" or "NAME: NUMBER kB"."""
    words = [line.split() for line in text.splitlines()]
    return {one[0].rstrip(":"): int(one[1]) for one in words if len(one) > 1 and one[1].isdigit()}


def cpus() -> dict[str, tuple[float, float]]:
    """Idle and stolen seconds by CPU."""
    times = {}
    for name, *columns in map(str.split, read("/proc/stat").splitlines()):
        if name.startswith("cpu") and name != "cpu":
            ticks = [int(column) for column in columns]
            idle = sum(ticks[column] for column in _IDLE)
            times[name[3:]] = (idle / _TICKS, ticks[_STEAL] / _TICKS)
    return times


def pressure() -> dict[str, float]:
    """Empty on a kernel without pressure stall information."""
    seconds = {}
    for name in ("cpu", "memory", "io"):
        with contextlib.suppress(OSError, ValueError):
            some = read(f"/proc/pressure/{name}").partition("\n")[0]
            seconds[name] = int(some.rpartition("total=")[2]) / 1e6
    return seconds


def interfaces() -> dict[str, tuple[int, int]]:
    """Bytes received and sent."""
    counts = {}
    for line in read("/proc/self/net/dev").splitlines()[2:]:
        name, _, columns = line.partition(":")
        numbers = [int(column) for column in columns.split()]
        counts[name.strip()] = (numbers[0], numbers[8])
    return counts


def disks_of(io_stat: str) -> tuple[int, int]:
    """Bytes read and written, of all devices in a cgroup's io.stat."""
    total = {"rbytes": 0, "wbytes": 0}
    for word in io_stat.split():
        name, _, number = word.partition("=")
        if name in total:
            total[name] += int(number)
    return total["rbytes"], total["wbytes"]


def energy(sys_folder: Path = Path("/sys")) -> dict[str, tuple[float, float]]:
    """J and the range of the counter, by the RAPL zone of each package.

    Zones within a package and the platform's (psys), which has the packages in it, do not count
    twice. Empty on a host without RAPL, or for who may not read it.
    """
    zones = {}
    for zone in sys_folder.glob("class/powercap/intel-rapl:*"):
        with contextlib.suppress(OSError, ValueError):
            if read(f"{zone}/name").startswith("package"):
                used, limit = (int(read(f"{zone}/{name}")) for name in _ENERGY)
                zones[zone.name] = (used / 1e6, limit / 1e6)
    return zones


def processes(group: str) -> Iterator[str]:
    """The processes of a cgroup and of those below it."""
    for folder, _, _ in os.walk(group):
        with contextlib.suppress(OSError):
            yield from read(f"{folder}/cgroup.procs").split()


def threads(pid: str) -> Iterator[tuple[str, tuple[int, float, float]]]:
    """The threads of a process. Each may end at any moment."""
    for folder in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            words = read(f"{folder}/stat").rpartition(")")[2].split()
            running, waiting, _ = map(int, read(f"{folder}/schedstat").split())
            yield folder.name, (int(words[_GUEST_TIME]), running / 1e9, waiting / 1e9)


def merged_pages(pid: str) -> int:
    """0 on a kernel without KSM, and before Linux 5.19, which does not count them."""
    try:
        return int(read(f"/proc/{pid}/ksm_merging_pages"))
    except FileNotFoundError:
        return 0


def add_mapped(pid: str, total: dict[str, int]) -> None:
    with contextlib.suppress(OSError, KeyError, ValueError):
        mapped = table(read(f"/proc/{pid}/smaps_rollup"))
        private = (mapped["Private_Clean"] + mapped["Private_Dirty"]) * 1024
        merged = merged_pages(pid) * _PAGE
        total["private"] += private
        total["merged"] += merged  # the kernel counts these pages as shared, too
        total["shared"] += max(0, mapped["Rss"] * 1024 - private - merged)


def of_group(group: str) -> dict[str, Any]:
    """Raises OSError or KeyError for a cgroup that is gone or does not count."""
    counts: dict[str, Any] = {}
    counts["cpu"] = table(read(f"{group}/cpu.stat"))["usage_usec"] / 1e6
    with contextlib.suppress(OSError, ValueError):
        counts["memory"] = int(read(f"{group}/memory.current"))
    with contextlib.suppress(OSError, ValueError):
        counts["disks"] = disks_of(read(f"{group}/io.stat"))
    counts["threads"] = {}
    for pid in processes(group):
        counts["threads"].update(threads(pid))
    return counts


def mapped_by(group: str) -> dict[str, int]:
    total = dict.fromkeys(("private", "shared", "merged"), 0)
    for pid in processes(group):
        add_mapped(pid, total)
    return total


def main(at: float, memory: bool) -> None:
    listed = sys.stdin.read().splitlines()
    time.sleep(max(0.0, at - time.monotonic()))
    report: dict[str, Any] = {"time": time.monotonic(), "cpus": cpus(), "pressure": pressure()}
    report["energy"] = energy()
    report["interfaces"] = interfaces()
    paging = table(read("/proc/vmstat"))
    report["swapped"] = paging.get("pswpin", 0) + paging.get("pswpout", 0)
    report["disks"] = (paging["pgpgin"] * 1024, paging["pgpgout"] * 1024)
    groups = {}
    for group in listed:
        with contextlib.suppress(OSError, KeyError):
            groups[group] = of_group(group)
    if memory:  # it takes long, so all counters are read before
        for group, counts in groups.items():
            counts.update(mapped_by(group))
    print(json.dumps({**report, "groups": groups}))


if __name__ == "__main__":
    main(float(sys.argv[1]), "--memory" in sys.argv)
