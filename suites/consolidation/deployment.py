"""Tiles in guests: clones of prepared guests where the hypervisor makes clones, else booted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import HarnessError, WorkloadError
from harness.guest.base import describe_end
from harness.guest.factory import GuestFactory, wait_ready_or_stop
from harness.guest.guest import Guest
from harness.guest.guest_options import GuestOptions
from harness.guest.snapshot import Snapshot
from harness.hosts.base import Host, HostFacts
from harness.hypervisors.capabilities import SupportsClone
from images.image import GuestImage
from suites.consolidation.generator import LoadGenerator
from suites.consolidation.servers import start_server
from suites.consolidation.target import Schedule, Target
from suites.consolidation.tile import Tile, TileGuest

WARM_UP = Schedule(ramp=0, measure=10, drain=5)
_RESERVE = 256  # MiB of the host's memory that guests leave to it
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True)
class Member:
    """A guest of a tile. tile: the number of the tile, from 0."""

    role: TileGuest
    tile: int
    guest: Guest

    @property
    def target(self) -> Target:
        return self.role.target(str(self.guest.address))


class Deployment:
    """The tiles that run. Their guests have the CPUs `cpus` of the host.

    Attributes:
        members: the guests, those that ended included.
    """

    def __init__(
        self,
        factory: GuestFactory,
        image: GuestImage,
        tile: Tile,
        cpus: Sequence[int],
        warmer: LoadGenerator | None,
        *,
        mergeable: bool = False,
    ) -> None:
        """warmer: lets servers answer requests before they are deployed; None for no warm-up.
        mergeable: KSM may merge the guests' memory."""
        self._warmer = warmer
        self._factory = factory
        self._image = image
        self.tile = tile
        self.cpus = tuple(cpus)
        self._mergeable = mergeable
        self._templates: dict[str, Snapshot] = {}
        self.members: list[Member] = []

    @property
    def method(self) -> str:
        """How guests are deployed, "clone" or "boot"; figures of the two are never compared."""
        clones = isinstance(self._factory.hypervisor, SupportsClone) and (
            self._factory.ssh != "network"
        )
        return "clone" if clones else "boot"

    def prepare(self) -> None:
        """Make what clones are made from, unless it is there."""
        if self.method == "clone" and not self._templates:
            self._make_templates(self.tile)

    def grow_to(self, tiles: int, extra: float = 0.0) -> None:
        """Add tiles until there are `tiles`, then one more with the share `extra` of a tile's load.

        Raises ProvisionError or GuestEnded for a guest that does not become ready, CommandError for
        a server that does not start. The guests that run stay in `members`.
        """
        first = 1 + max((one.tile for one in self.members), default=-1)
        for number in range(first, tiles):
            self._add(self.tile, number)
        if extra:
            self._add(self.tile.scaled(extra), max(first, tiles))

    def _add(self, tile: Tile, number: int) -> None:
        clones = self.method == "clone"
        self.prepare()
        for role in tile.guests:
            label = f"{role.name}-{number + 1}"
            if clones:
                guest = self._factory.launch_clone(self._templates[role.name], label, self.cpus)
            else:
                guest = self._launch(role, label, self.cpus)
            # before the next one starts, so that an error loses none
            self.members.append(Member(role, number, guest))
        added = [one for one in self.members if one.tile == number]
        self._start(added, clones=clones)
        for one in added:
            one.guest.end_expected = True  # its end is a verdict on the point, not on the test

    def _start(self, members: Sequence[Member], *, clones: bool) -> None:
        """Wait for guests. The servers of clones run already."""
        for one in members:
            wait_ready_or_stop(one.guest)
        if clones:
            return
        for one in members:
            start_server(one.guest, one.role.server, one.role.work)
        if self._warmer:
            targets = [one.target for one in members]
            self._warmer.start(targets, WARM_UP, seed=0).finish()

    def _launch(self, role: TileGuest, label: str, cpus: Sequence[int] = ()) -> Guest:
        options: GuestOptions = {
            "image": self._image,
            "memory": role.memory,
            "cpus": list(cpus),
            "mergeable": self._mergeable,
        }
        return self._factory.launch(label, **options)

    def _make_templates(self, tile: Tile) -> None:
        """Snapshots of guests whose servers have answered requests. They boot on all CPUs."""
        members: list[Member] = []
        try:
            for role in tile.guests:
                guest = self._launch(role, f"{role.name}-template")
                members.append(Member(role, 0, guest))
            self._start(members, clones=False)
            for one in members:
                one.guest.ssh.disconnect()
                self._templates[one.role.name] = one.guest.snapshot()
        except BaseException:
            self._remove_templates()
            raise
        finally:
            attempt_all(one.guest.stop for one in members)

    def _remove_templates(self) -> None:
        templates, self._templates = list(self._templates.values()), {}
        attempt_all(snapshot.remove for snapshot in templates)

    @property
    def tiles(self) -> float:
        """The number of running tiles; one with a part of the load counts as that part."""
        shares = {one.tile: one.role.rate_share for one in self.members}
        return sum(shares.values())

    @property
    def ends(self) -> Mapping[int, str]:
        """How guests ended, by their index in `members`."""
        return {
            index: describe_end(one.guest.end)
            for index, one in enumerate(self.members)
            if one.guest.ended.is_set()
        }

    def memory_blocker(self, host: Host, tiles: int) -> str:
        """Why the host has no memory for `tiles` tiles, or "".

        A tile needs what the largest one of those that run uses, or its configured memory when none
        runs.
        """
        each = max(self._used_memory().values(), default=0.0) or self.tile.memory
        needed = each * (tiles - self.tiles)
        available = available_memory(host)
        if needed <= 0 or available - needed >= _RESERVE:
            return ""
        return (
            f"memory: about {needed:.0f} MiB more would be needed for tile {tiles}; "
            f"{available:.0f} MiB are available, and {_RESERVE} MiB are kept for the host"
        )

    def _used_memory(self) -> dict[int, float]:
        """MiB by tile, by the guests' cgroups."""
        used: dict[int, float] = {}
        for one in self.members:
            if not one.guest.ended.is_set():
                memory = one.guest.statistics().get("cgroup_memory", 0) / (1 << 20)
                used[one.tile] = used.get(one.tile, 0.0) + memory
        return used

    def close(self) -> None:
        """End all guests, and remove the templates from the host. Raises the first error."""
        try:
            self.clear()
        finally:
            self._remove_templates()

    def clear(self) -> None:
        """End all guests; the templates stay. Raises the first error."""
        self.shrink_to(0)

    def shrink_to(self, tiles: int) -> None:
        """End the newest tiles until there are `tiles`, and any with a part of the load. Raises the
        first error."""
        kept = [one for one in self.members if one.tile < tiles and one.role.rate_share == 1]
        ended = [one for one in self.members if one not in kept]
        self.members = kept
        attempt_all(one.guest.stop for one in ended)


def attempt_all(actions: Iterable[Callable[[], object]]) -> None:
    """Do all, whatever fails, and raise the first HarnessError."""
    errors = []
    for action in actions:
        try:
            action()
        except HarnessError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def available_memory(host: Host) -> float:
    """MiB."""
    match = _AVAILABLE.search(host.run(["cat", "/proc/meminfo"]).stdout)
    if not match:
        raise WorkloadError(
            f"{host.name} does not report MemAvailable", hint="read /proc/meminfo there"
        )
    return int(match[1]) / 1024


def split_cpus(facts: HostFacts) -> tuple[Sequence[int], Sequence[int]]:
    """The host's CPUs for guests, and those for the load generator: a tenth, as whole cores.

    A CPU whose sibling carries guests would slow them, and be slowed by them. There are none for
    guests on a host of one core.
    """
    cpus = facts.cpu_numbers
    generator: set[int] = set()
    for cpu in reversed(cpus):
        if len(generator) >= max(1, len(cpus) // 10):
            break
        generator |= set(facts.siblings(cpu)) & set(cpus)
    return [cpu for cpu in cpus if cpu not in generator], sorted(generator)
