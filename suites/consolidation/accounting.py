"""What a measured window costs the host: CPU time of host and guests, memory, exits, swapping.

The plugin records the values of each second of host and guests in every session. Here are the sums
of a window, from one reading before it and one after it.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.hosts.base import Host
from suites.consolidation.deployment import Member

# proc(5): user nice system idle iowait irq softirq steal
_BUSY_COLUMNS, _STEAL, _COLUMNS = (0, 1, 2, 5, 6), 7, 8
_TICK = 0.01  # seconds: USER_HZ
_READ_TIMEOUT = 10.0  # seconds
_SWAPPED = re.compile(r"^pswp(?:in|out) (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Reading:
    """Counters at one moment.

    time: CLOCK_MONOTONIC here, s. busy, steal: CPU seconds by the host's CPU. guests: statistics by
    the index of the member; those of ended guests are missing. inside: CPU seconds of work and of
    steal that the guests' own kernels count; empty for containers. generator: of its cgroup.
    """

    time: float
    busy: Mapping[int, float]
    steal: Mapping[int, float]
    swapped: int
    guests: Mapping[int, Mapping[str, int]]
    inside: Mapping[int, tuple[float, float]]
    generator: Mapping[str, int]


@dataclass(frozen=True)
class WindowCost:
    """The difference of two readings.

    seconds: between them. busy: CPU seconds of the guests' CPUs. host_steal: seconds for which the
    host's own CPUs were stolen. swapped: pages. guest_cpu: CPU seconds of each guest's cgroup, by
    index. memory: MiB of each guest's cgroup at the end. exits: of all guests, by the counter's
    name. demand, steal: CPU seconds of work, and of waiting for a CPU, as the guests' own kernels
    count them; a container's work is that of its cgroup. generator_cpu: CPU seconds of its cgroup.
    """

    seconds: float
    busy: float
    host_steal: float
    swapped: int
    guest_cpu: Mapping[int, float]
    memory: Mapping[int, float]
    exits: Mapping[str, int]
    demand: float
    steal: float
    generator_cpu: float


def read(host: Host, members: Sequence[Member], generator: Mapping[str, int]) -> Reading:
    """Read all counters now."""
    start = time.monotonic()
    text = host.run(["cat", "/proc/stat", "/proc/vmstat"]).stdout
    times = _cpu_times(text)
    guests, inside = {}, {}
    for index, one in enumerate(members):
        with contextlib.suppress(HarnessError):  # it ended
            if one.guest.machine.facts["vmm"] != "none":
                own = one.guest.ssh.run(["cat", "/proc/stat"], timeout=_READ_TIMEOUT).stdout
                inside[index] = _sum(_cpu_times(own).values())
            guests[index] = one.guest.statistics()
    swapped = sum(map(int, _SWAPPED.findall(text)))
    return Reading(
        time=start,
        busy={number: busy for number, (busy, _) in times.items()},
        steal={number: steal for number, (_, steal) in times.items()},
        swapped=swapped,
        guests=guests,
        inside=inside,
        generator=generator,
    )


def _cpu_times(text: str) -> dict[int, tuple[float, float]]:
    """Busy and stolen seconds by CPU, of a /proc/stat."""
    times = {}
    for name, columns in re.findall(r"^cpu(\d{1,5}) ([\d ]{1,400})$", text, re.MULTILINE):
        ticks = [int(word) for word in columns.split()]
        if len(ticks) >= _COLUMNS:
            busy = sum(ticks[column] for column in _BUSY_COLUMNS)
            times[int(name)] = (busy * _TICK, ticks[_STEAL] * _TICK)
    return times


def _sum(times: Iterable[tuple[float, float]]) -> tuple[float, float]:
    busy, steal = zip(*times, strict=True)
    return sum(busy), sum(steal)


def cost(before: Reading, after: Reading, cpus: Sequence[int]) -> WindowCost:
    """What a window cost. cpus: the guests' CPUs of the host."""
    both = before.guests.keys() & after.guests.keys()

    def growth(index: int, name: str) -> int:
        return after.guests[index].get(name, 0) - before.guests[index].get(name, 0)

    def inside(part: int) -> float:
        return sum(
            after.inside[index][part] - before.inside[index][part]
            for index in after.inside.keys() & before.inside.keys()
        )

    guest_cpu = {index: growth(index, "cgroup_cpu_usec") / 1e6 for index in sorted(both)}
    counted = {name for index in both for name in after.guests[index] if name.endswith("exits")}
    return WindowCost(
        seconds=after.time - before.time,
        busy=sum(after.busy.get(cpu, 0.0) - before.busy.get(cpu, 0.0) for cpu in cpus),
        host_steal=sum(after.steal.values()) - sum(before.steal.values()),
        swapped=after.swapped - before.swapped,
        guest_cpu=guest_cpu,
        memory={
            index: after.guests[index].get("cgroup_memory", 0) / (1 << 20) for index in sorted(both)
        },
        exits={name: sum(growth(index, name) for index in both) for name in sorted(counted)},
        demand=inside(0) if after.inside else sum(guest_cpu.values()),
        steal=inside(1),
        generator_cpu=(
            after.generator.get("cgroup_cpu_usec", 0) - before.generator.get("cgroup_cpu_usec", 0)
        )
        / 1e6,
    )
