"""The fleet of today: one server for each machine, or the hosts that the inventory names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.planner.fleet import FleetLoad
from harness.planner.hosts_file import HostsFile, HostType
from harness.planner.model import Model
from harness.planner.overhead import Overhead
from harness.planner.planned_machines import PlannedMachines
from harness.planner.reduction import CPU, Profile, Window
from harness.planner.samples import Block
from harness.planner.verification import Assignment, HostLoads, assumed_mean

# what a host of today needs is in the measurements of its machines
_NO_OVERHEAD = Model(Overhead())


@dataclass(frozen=True)
class HostsOfToday:
    """Named hosts. names, racks, types: of each; no racks where they are not known."""

    names: tuple[str, ...]
    racks: tuple[str, ...]
    types: tuple[HostType, ...]

    def assignment(self, profile: Profile, window: Window) -> Assignment:
        places = {name: index for index, name in enumerate(self.names)}
        hosts = (places.get(host or "", -1) for host in profile.machines.hosts)
        host_of = np.fromiter(hosts, np.int64, len(profile.machines))
        return Assignment(host_of, self.types, _NO_OVERHEAD, profile, window)

    def load(self, loads: HostLoads) -> FleetLoad:
        utilization = loads.utilization()
        mean = float(utilization.mean(dtype=np.float64))
        return FleetLoad(self.types, self.racks, float(loads.watts(utilization).sum()), mean, {})


def hosts_of_today(machines: PlannedMachines, hosts: HostsFile) -> HostsOfToday | None:
    """None where the type of a machine's host is not known.

    All hosts that hosts.toml names count, also those without machines.
    """
    types = {name: one for one in hosts.types for name in one.names}
    racks = {
        name: rack for one in hosts.types for name, rack in zip(one.names, one.racks, strict=False)
    }
    if not types or untyped_hosts(machines, hosts):
        return None
    known = tuple(racks.values()) if len(racks) == len(types) else ()
    return HostsOfToday(tuple(types), known, tuple(types.values()))


def untyped_hosts(machines: PlannedMachines, hosts: HostsFile) -> list[str]:
    """Hosts of machines that are in no type of hosts.toml."""
    named = {name for one in hosts.types for name in one.names}
    return sorted({host for host in machines.hosts if host is not None} - named)


class OwnServers:
    """Each machine has a server of its own. The samples of `verify` are added block by block."""

    def __init__(self, host: HostType, profile: Profile) -> None:
        self._host = host
        self._profile = profile
        self._measured = np.zeros(len(profile.machines), np.bool_)
        self._watts = 0.0
        self._utilization = 0.0

    def add(self, block: Block) -> None:
        places = block.places
        machines, known = self._profile.machines, self._profile.mean[places, CPU]
        places, cpu = places[~np.isnan(known)], block.cpu[~np.isnan(known)]
        cpu = cpu * machines.rating[places, None]
        cpu = np.where(np.isnan(cpu), self._profile.mean[places, CPU, None], cpu)
        self._count(cpu)
        self._measured[places] = True

    def load(self) -> FleetLoad:
        """After all blocks."""
        self._count(assumed_mean(self._profile)[~self._measured, None])
        count = len(self._measured)
        return FleetLoad((self._host,) * count, (), self._watts, self._utilization / count, {})

    def _count(self, cpu: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> None:
        """cpu: of some machines (machines, moments), in cores of rating 1."""
        if cpu.size:
            utilization = np.clip(cpu / self._host.speed, 0, 1)
            self._watts += float(self._host.curve.at(utilization).mean(axis=1).sum())
            self._utilization += float(utilization.mean(axis=1).sum())
