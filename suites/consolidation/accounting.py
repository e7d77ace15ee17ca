"""What a measured window costs the host: CPU time, energy, memory, exits, traffic, swapping.

The plugin records the values of each second of host and guests in every session. Here are the sums
of a window, from one reading before it and one after it. Both are made on the host: a command in
the guests would cost what it measures.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, WorkloadError
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.base import Hypervisor
from harness.hypervisors.capabilities import SupportsHostNetwork

_SCRIPT = Path(__file__).with_name("host_counters.py")
_MIB = 1 << 20
CONTAINER = "none"  # the VMM of a container
MEMORY_KINDS = ("private", "shared", "merged")
NETWORK_KINDS = ("network.sent", "network.received")
DISK_KINDS = ("disks.read", "disks.written")
TRAFFIC_KINDS = (*NETWORK_KINDS, *DISK_KINDS)


@dataclass(frozen=True)
class GuestReading:
    """Counters of one guest.

    counts: of its cgroup; see host_counters.py. exits: by their kind. traffic: bytes by
    TRAFFIC_KINDS, of those that somebody counts.
    """

    counts: Mapping[str, Any]
    exits: Mapping[str, int]
    container: bool
    traffic: Mapping[str, int] = field(default_factory=dict)

    def thread(self, number: str) -> tuple[int, float, float]:
        """Ticks in guest mode, seconds on a CPU and of waiting for one; zeros for one that did not
        exist."""
        ticks, running, waiting = self.counts["threads"].get(number, (0, 0.0, 0.0))
        return ticks, running, waiting

    @property
    def vcpus(self) -> list[str]:
        """Its threads that have run a guest."""
        return [number for number, (ticks, _, _) in self.counts["threads"].items() if ticks]


@dataclass(frozen=True)
class Reading:
    """Counters at one moment.

    time: CLOCK_MONOTONIC of the host, s. idle, steal: seconds by the host's CPU. disks: bytes that
    the host read and wrote. pressure: seconds by the resource. energy: J and the range of the
    counter by the CPU package; empty where nobody counts it. guests: by index; those that have
    ended are missing. generator: CPU seconds.
    """

    time: float
    idle: Mapping[int, float]
    steal: Mapping[int, float]
    swapped: int
    disks: tuple[int, int]
    pressure: Mapping[str, float]
    energy: Mapping[str, tuple[float, float]]
    guests: Mapping[int, GuestReading]
    generator: float


@dataclass(frozen=True)
class WindowCost:
    """The difference of two readings.

    seconds: between them. cpus: number of CPUs that guests may use; host_cpus: of all. busy: CPU
    seconds of the guests' CPUs. host_steal: seconds for which the host's own CPUs were stolen.
    swapped: pages. disks: bytes that the host read and wrote. pressure: by the resource, the share
    of the time for which a task waited for it. joules: of all CPU packages; None where nobody
    counts them. guest_cpu: CPU seconds of each guest's cgroup, by index. memory: MiB of each
    guest's cgroup at the end; mapped: of its processes, by MEMORY_KINDS, where it was read.
    traffic: bytes of each guest, by TRAFFIC_KINDS, where they were read. exits: of all guests, by
    their kind. demand: CPU seconds of virtual CPUs, and of containers. steal: seconds for which
    virtual CPUs could run and had no CPU, which is what guests see as steal. generator_cpu: CPU
    seconds; generator_busy: of all work on the busiest of its CPUs. unread: guests without
    counters.
    """

    seconds: float
    cpus: int
    host_cpus: int
    busy: float
    host_steal: float
    swapped: int
    disks: tuple[int, int]
    pressure: Mapping[str, float]
    joules: float | None
    guest_cpu: Mapping[int, float]
    memory: Mapping[int, float]
    mapped: Mapping[int, Mapping[str, float]]
    traffic: Mapping[int, Mapping[str, int]]
    exits: Mapping[str, int]
    demand: float
    steal: float
    generator_cpu: float
    generator_busy: float
    unread: int

    @property
    def busy_share(self) -> float:
        """Of the guests' CPUs, from 0 to 1."""
        return self.busy / self.seconds / self.cpus


def read(
    host: Host, guests: Sequence[Guest], generator: Guest, *, end: bool = False, at: float = 0.0
) -> Reading:
    """Read all counters at the start or the end of a window; at its end also mapped memory.

    at: s of the host's CLOCK_MONOTONIC; a moment that has passed is now. The guests' own processes
    count exits, so these are read outside of the window, or soon after the moment: what that costs
    does not show under load. Raises WorkloadError for guests without a cgroup, whose cost nobody
    counts.
    """
    paths = [_cgroup(one) for one in (*guests, generator)]
    exits = {} if end or at else _exits(guests)
    report = _counters(host, paths, memory=end, at=at, network=generator.hypervisor)
    groups = report["groups"]
    if end or at:
        exits = _exits(guests)
    readings = {
        index: GuestReading(
            groups.get(paths[index], {}),
            counts,
            container=guests[index].machine.facts["vmm"] == CONTAINER,
            traffic=_traffic(guests[index], report["interfaces"], groups.get(paths[index], {})),
        )
        for index, counts in exits.items()
    }
    cpus = {int(number): times for number, times in report["cpus"].items()}
    return Reading(
        time=report["time"],
        idle={number: idle for number, (idle, _) in cpus.items()},
        steal={number: steal for number, (_, steal) in cpus.items()},
        swapped=report["swapped"],
        disks=(report["disks"][0], report["disks"][1]),
        pressure=report["pressure"],
        energy={zone: (used, limit) for zone, (used, limit) in report["energy"].items()},
        guests=readings,
        generator=groups.get(paths[-1], {}).get("cpu", 0.0),
    )


def read_memory(host: Host, guests: Sequence[Guest]) -> list[dict[str, float]]:
    """MiB of each guest that has not ended: "memory" of its cgroup, and MEMORY_KINDS of its
    processes. Raises WorkloadError for guests without a cgroup."""
    groups = _counters(host, list(map(_cgroup, guests)), memory=True)["groups"]
    kinds = ("memory", *MEMORY_KINDS)
    return [
        {kind: counts[kind] / _MIB for kind in kinds if kind in counts}
        for counts in groups.values()
    ]


def _counters(
    host: Host,
    cgroups: Sequence[str],
    *,
    memory: bool,
    at: float = 0.0,
    network: Hypervisor | None = None,
) -> dict[str, Any]:
    """The object that host_counters.py prints. memory: with mapped memory. at: see read(). network:
    of guests, whose interfaces are read."""
    argv = ["python3", "-I", "-S", "-c", _SCRIPT.read_text("utf-8"), str(at)]
    argv += ["--memory"] if memory else []
    if isinstance(network, SupportsHostNetwork):
        argv = network.in_network(argv)
    report: dict[str, Any] = json.loads(host.run(argv, input="\n".join(cgroups).encode()).stdout)
    return report


def _traffic(
    guest: Guest, interfaces: Mapping[str, Sequence[int]], counts: Mapping[str, Any]
) -> dict[str, int]:
    """See TRAFFIC_KINDS. What the host receives from a guest's interface, the guest has sent."""
    network = interfaces.get(str(guest.machine.facts.get("port")))
    disks = counts.get("disks")
    return {
        **(dict(zip(NETWORK_KINDS, network, strict=True)) if network else {}),
        **(dict(zip(DISK_KINDS, disks, strict=True)) if disks else {}),
    }


def _exits(guests: Sequence[Guest]) -> dict[int, dict[str, int]]:
    """By guest and kind; guests that have ended are missing."""
    exits = {}
    for index, guest in enumerate(guests):
        with contextlib.suppress(HarnessError):
            exits[index] = {
                name: count
                for name, count in guest.statistics().items()
                if name == "exits" or name.endswith("_exits")
            }
    return exits


def _cgroup(guest: Guest) -> str:
    if not guest.cgroup:
        raise WorkloadError(
            f"guest {guest.name} has no cgroup, so nobody counts what it costs",
            hint="run as root on a host with cgroup version 2",
            stage="run",
            guest=guest.name,
        )
    return guest.cgroup


def cost(
    before: Reading,
    after: Reading,
    cpus: Sequence[int],
    alive: Iterable[int],
    generator_cpus: Sequence[int] = (),
) -> WindowCost:
    """What a window cost. cpus, generator_cpus: of the host. alive: guests that have not ended."""
    both = sorted(
        index
        for index in before.guests.keys() & after.guests.keys()
        if before.guests[index].counts and after.guests[index].counts
    )
    seconds = after.time - before.time

    def busy(cpu: int) -> float:
        idle = after.idle[cpu] - before.idle[cpu] + after.steal[cpu] - before.steal[cpu]
        return max(0.0, seconds - idle)

    def exits(index: int, name: str) -> int:
        return after.guests[index].exits[name] - before.guests[index].exits.get(name, 0)

    counts = {index: after.guests[index].counts for index in both}
    guest_cpu = {index: counts[index]["cpu"] - before.guests[index].counts["cpu"] for index in both}
    in_containers = sum(cpu for index, cpu in guest_cpu.items() if after.guests[index].container)
    kinds = {name for index in both for name in after.guests[index].exits}
    return WindowCost(
        seconds=seconds,
        cpus=len(cpus),
        host_cpus=len(after.idle),
        busy=sum(map(busy, cpus)),
        generator_busy=max(map(busy, generator_cpus), default=0.0),
        host_steal=sum(after.steal.values()) - sum(before.steal.values()),
        swapped=after.swapped - before.swapped,
        disks=(after.disks[0] - before.disks[0], after.disks[1] - before.disks[1]),
        pressure={
            name: (after.pressure[name] - before.pressure[name]) / seconds
            for name in after.pressure.keys() & before.pressure.keys()
        },
        joules=_joules(before, after),
        guest_cpu=guest_cpu,
        memory={index: counts[index].get("memory", 0.0) / _MIB for index in both},
        mapped={
            index: {kind: counts[index][kind] / _MIB for kind in MEMORY_KINDS}
            for index in both
            if set(MEMORY_KINDS) <= counts[index].keys()
        },
        traffic={
            index: _traffic_between(before.guests[index], after.guests[index]) for index in both
        },
        exits={
            name: sum(exits(index, name) for index in both if name in after.guests[index].exits)
            for name in sorted(kinds)
        },
        demand=_of_vcpus(before, after, both, 1) + in_containers,
        steal=_of_vcpus(before, after, both, 2),
        generator_cpu=after.generator - before.generator,
        unread=len(set(alive) - set(both)),
    )


def _traffic_between(before: GuestReading, after: GuestReading) -> dict[str, int]:
    both = before.traffic.keys() & after.traffic.keys()
    return {kind: after.traffic[kind] - before.traffic[kind] for kind in both}


def _joules(before: Reading, after: Reading) -> float | None:
    """A counter starts again from 0 at its range: after minutes, and at most once in a window."""
    zones = before.energy.keys() & after.energy.keys()
    if not zones:
        return None
    used = 0.0
    for zone in zones:
        (first, _), (last, limit) = before.energy[zone], after.energy[zone]
        used += last - first if last >= first else last - first + limit
    return used


def _of_vcpus(before: Reading, after: Reading, guests: Iterable[int], part: int) -> float:
    """The growth of one of GuestReading.thread()'s values, summed over virtual CPUs."""
    return sum(
        after.guests[index].thread(number)[part] - before.guests[index].thread(number)[part]
        for index in guests
        for number in after.guests[index].vcpus
    )
