"""Tiles: the mix of guests that a consolidation adds step by step, read from a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from harness.errors import WorkloadError
from suites.consolidation.servers import SERVERS
from suites.consolidation.target import Target

HostClass = Literal["emulated", "hardware"]

STANDARD = Path(__file__).with_name("tile.toml")
_KEYS = {"server", "memory", "rate", "arrivals", "percentile", "floor", "limit", "work"}
_REQUIRED = {"server", "memory", "rate", "percentile"}
_MAX_GUESTS = 20
_MIN_MEMORY, _MAX_MEMORY = 64, 65536  # MiB
_MAX_RATE = 1e6  # requests a second


@dataclass(frozen=True)
class TileGuest:
    """One guest of a tile.

    server: a name of SERVERS. memory: MiB. rate: requests a second. arrivals: "poisson" or
    "periodic". percentile: of the latency that has a limit; 100 for the slowest. floor: the lowest
    limit in seconds, when the limit follows from reference runs. limit: a fixed limit in seconds,
    or 0. work: operations of one job of "batch". rate_share: of the tile's rate, below 1 in a tile
    with a part of the load.
    """

    name: str
    server: str
    memory: int
    rate: float
    arrivals: str
    percentile: float
    floor: float
    limit: float
    work: int
    rate_share: float = 1.0

    def target(self, address: str = "") -> Target:
        """Its server as the load generator sees it."""
        server = SERVERS[self.server]
        return Target(server.protocol, address, server.port, self.rate, self.arrivals)


@dataclass(frozen=True)
class Tile:
    """The guests that are added together. The name with the version identifies its rates."""

    name: str
    version: int
    guests: tuple[TileGuest, ...]

    @property
    def memory(self) -> int:
        """MiB of all its guests."""
        return sum(guest.memory for guest in self.guests)

    @property
    def targets(self) -> list[Target]:
        """Of its guests, before they have addresses."""
        return [guest.target() for guest in self.guests]

    def scaled(self, factor: float) -> Tile:
        """The same guests with a fraction of the load."""
        guests = (replace(g, rate=g.rate * factor, rate_share=factor) for g in self.guests)
        return replace(self, guests=tuple(guests))


def load_tile(path: Path, host_class: HostClass) -> Tile:
    """Read and check a tile.

    host_class: chooses the values that the file has for each class of hosts. Raises WorkloadError
    with cause and hint.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _error(path, f"it cannot be read: {error}", "name a TOML file") from error
    return _Reader(path, host_class).tile(content)


class _Reader:
    def __init__(self, path: Path, host_class: HostClass) -> None:
        self._path = path
        self._host_class = host_class

    def tile(self, content: Mapping[str, Any]) -> Tile:
        unknown = content.keys() - {"name", "version", "guest"}
        if unknown:
            raise self._error(f"the unknown key {min(unknown)!r}", "use name, version and guest")
        name, version, guests = (content.get(key) for key in ("name", "version", "guest"))
        if not isinstance(name, str) or not name:
            raise self._error("no name", 'add name = "my-tile"')
        if type(version) is not int or version < 1:
            raise self._error(f"the version {version!r}", "give a whole number from 1")
        if not isinstance(guests, dict) or not 0 < len(guests) <= _MAX_GUESTS:
            raise self._error(
                "no table of guests, or too many", f"add 1 to {_MAX_GUESTS} tables [guest.NAME]"
            )
        return Tile(name, version, tuple(self._guest(*entry) for entry in guests.items()))

    def _guest(self, name: str, table: Any) -> TileGuest:
        if not isinstance(table, dict):
            raise self._error(f"guest.{name} = {table!r}", f"write a table [guest.{name}]")
        for key in table.keys() - _KEYS:
            close = get_close_matches(key, _KEYS, 1) or sorted(_KEYS)
            raise self._error(f"the unknown key guest.{name}.{key}", f"use {', '.join(close)}")
        for key in sorted(_REQUIRED - table.keys()):
            raise self._error(f"no guest.{name}.{key}", f"add {key} to [guest.{name}]")
        server, arrivals = table["server"], table.get("arrivals", "poisson")
        if server not in SERVERS:
            raise self._error(
                f"guest.{name} has the unknown server {server!r}", f"use {', '.join(SERVERS)}"
            )
        if arrivals not in ("poisson", "periodic"):
            raise self._error(f"guest.{name}.arrivals = {arrivals!r}", "use poisson or periodic")
        if arrivals == "periodic" and SERVERS[server].protocol == "pgbench":
            raise self._error(
                f"guest.{name} has periodic arrivals, which pgbench cannot make", "use poisson"
            )
        number = self._number
        guest = TileGuest(
            name=name,
            server=server,
            memory=int(number(name, table, "memory", _MIN_MEMORY, _MAX_MEMORY)),
            rate=number(name, table, "rate", 1e-3, _MAX_RATE),
            arrivals=arrivals,
            percentile=number(name, table, "percentile", 50, 100),
            floor=number(name, table, "floor", 0, 3600, default=0.0),
            limit=number(name, table, "limit", 1e-6, 3600, default=0.0),
            work=int(number(name, table, "work", 1, 1e12, default=0.0)),
        )
        if not guest.floor and not guest.limit:
            raise self._error(
                f"guest.{name} has neither floor nor limit",
                "add a fixed limit, or the floor of a limit from reference runs, in seconds",
            )
        return guest

    def _number(
        self,
        guest: str,
        table: Mapping[str, Any],
        key: str,
        low: float,
        high: float,
        default: float | None = None,
    ) -> float:
        """A number of the file, or the entry for this class of hosts in {emulated=, hardware=}."""
        if key not in table and default is not None:
            return default
        value = table[key]
        if isinstance(value, dict):
            value = value.get(self._host_class)
        if type(value) not in (int, float) or not low <= value <= high:
            raise self._error(
                f"guest.{guest}.{key} = {value!r} for a host of the class {self._host_class}",
                f"give a number from {low:g} to {high:g}, or {{emulated = ..., hardware = ...}}",
            )
        return float(value)

    def _error(self, problem: str, hint: str) -> WorkloadError:
        return _error(self._path, f"it has {problem}", hint)


def _error(path: Path, problem: str, hint: str) -> WorkloadError:
    return WorkloadError(f"{path} is not a tile: {problem}", hint=hint)
