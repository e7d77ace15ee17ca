"""hosts.toml: the types of hosts that exist or can be bought, and what energy and space cost.

[site]                        # optional, as each of its keys
currency = "USD"
pue = 1.54
kg_co2_per_kwh = 0.39
energy_price = 0.13           # of a kWh
rack_unit_price = 250         # of a rack unit for a year

[host.new]                    # a type of host that can be bought
cores = 32                    # not threads
threads = 64
memory_gib = 512
iops = 200000
network_mib_s = 2400
curve = "2-socket-2021"       # or watts = [...], at 0 %, 10 %, ..., 100 % load
price = 9000

[host.old]                    # a type of which hosts exist
cores = 16
memory_gib = 128
rating = 0.6                  # speed of a core, where a core of the traces is 1
names = ["esx1", "esx2"]
racks = ["A1", "A2"]

[today]                       # what "before" is made of
type = "old"
servers = "machines"          # each machine has a server of its own; or "hosts"

[licences]                    # of a host for a year, by the name of the licence
database = 4000

[constraints]                 # see constraints.py
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import PlanError
from harness.planner.constraints import NamedConstraints, read_constraints
from harness.planner.energy import LOADS, PowerCurve, default_curves
from harness.planner.plan import Assumption
from harness.planner.toml_table import TomlTable

DEFAULT_CURVE = "2-socket-2021"
PUE = Assumption("PUE", "1.54", "Uptime Institute 2025, mean of the industry")
CARBON = Assumption("carbon of energy", "0.39 kg CO2/kWh", "US 2022, EIA")
ENERGY_PRICE = Assumption("price of energy", "0.13 USD/kWh", "assumed")
GIVEN, NOT_GIVEN = "given", "not given"
EMBODIED = Assumption("carbon of making a host", "1215 kg", "median of 48 servers, Boavizta")
_RESERVE = 0.05  # of the memory
_LIFE = 5.0  # years
_MAX_HOSTS = 1_000_000


@dataclass(frozen=True)
class HostType:
    """One type of host. None: not given.

    rating: speed of a core, where a core of the traces is 1. smt_yield: what all threads of a core
    do together, where one thread does 1. reserve_mib: what the host needs itself. network: MiB/s.
    licence: of a year. count: how many there are or may be bought, None for any number. names,
    racks: of hosts that exist.
    """

    name: str
    cores: float
    threads: float
    memory_mib: float
    reserve_mib: float
    curve: PowerCurve
    rating: float = 1.0
    smt_yield: float = 1.0
    iops: float | None = None
    network: float | None = None
    rack_units: float = 1.0
    per_rack: int = 20
    price: float | None = None
    licence: float | None = None
    embodied_kg: float = 0.0
    life_years: float = _LIFE
    count: int | None = None
    names: tuple[str, ...] = ()
    racks: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()

    @property
    def exists(self) -> bool:
        return bool(self.names)

    @property
    def speed(self) -> float:
        """CPU that it has, in cores of the traces."""
        return self.cores * self.rating * self.smt_yield

    @property
    def capacity(self) -> NDArray[np.float64]:
        """Of each metric what machines can use at most; infinite where it is not given."""
        others = [np.inf if one is None else one for one in (self.iops, self.network)]
        return np.array([self.speed, self.memory_mib - self.reserve_mib, *others])


@dataclass(frozen=True)
class Site:
    """What energy and space cost. None: not given."""

    currency: str
    pue: float
    kg_per_kwh: float
    energy_price: float | None
    rack_unit_price: float | None
    licences: tuple[tuple[str, float], ...] = ()
    assumptions: tuple[Assumption, ...] = ()

    def with_given(self, pue: float | None, energy_price: float | None) -> Site:
        """With values of the command line; None keeps what hosts.toml says."""
        rows = {row.name: row for row in self.assumptions}
        site = self
        if pue is not None:
            site = replace(site, pue=pue)
            rows[PUE.name] = Assumption(PUE.name, f"{pue:g}", GIVEN)
        if energy_price is not None:
            site = replace(site, energy_price=energy_price)
            text = f"{energy_price:g} {self.currency}/kWh"
            rows[ENERGY_PRICE.name] = Assumption(ENERGY_PRICE.name, text, GIVEN)
        return replace(site, assumptions=tuple(rows.values()))


@dataclass(frozen=True)
class Today:
    """What the fleet of today is made of. servers: "machines" if each has a server of its own."""

    type: str
    servers: Literal["machines", "hosts"]


@dataclass(frozen=True)
class HostsFile:
    """All of hosts.toml."""

    types: tuple[HostType, ...]
    site: Site
    today: Today | None
    constraints: NamedConstraints

    def type_of(self, name: str) -> HostType:
        """The type with a name. Raises PlanError."""
        for one in self.types:
            if one.name == name:
                return one
        raise PlanError(
            f"there is no type of host {name!r}",
            hint=f"use {', '.join(one.name for one in self.types)}",
        )

    def with_inventory(self, names: Iterable[str]) -> HostsFile:
        """With the hosts of the inventory as hosts of the type of today, unless it names hosts."""
        today = self.today
        if today is None or today.servers == "machines" or self.type_of(today.type).names:
            return self
        known = {name for one in self.types for name in one.names}
        others = tuple(sorted(set(names) - known))
        types = (
            replace(one, names=others, count=len(others))
            if others and one.name == today.type
            else one
            for one in self.types
        )
        return replace(self, types=tuple(types))

    @property
    def choices(self) -> tuple[HostType, ...]:
        """Types that a plan may use. Servers of today that have no names are not bought again."""
        today = self.today.type if self.today else None
        return tuple(one for one in self.types if one.exists or one.name != today)

    def scaled_idle(self, factor: float) -> HostsFile:
        """The same hosts with other idle power."""
        types = (replace(one, curve=one.curve.scaled_idle(factor)) for one in self.types)
        return replace(self, types=tuple(types))


def read_hosts_file(path: Path) -> HostsFile:
    """Read and check hosts.toml. Raises PlanError with cause and hint."""
    file = TomlTable.read(path)
    types = tuple(_host_type(name, table) for name, table in file.table("host").tables())
    if not types:
        raise file.error("it has no type of host", "add a table [host.NAME] with cores, memory_gib")
    _check_names(file, types)
    site = _site(file)
    today = _today(file, types)
    constraints = read_constraints(file.table("constraints"))
    file.finish()
    return HostsFile(types, site, today, constraints)


def _host_type(name: str, table: TomlTable) -> HostType:
    cores = table.number("cores", 1, 10_000)
    memory = 1024 * table.number("memory_gib", 0.5, 1 << 20)
    embodied = table.number("embodied_kg", 0, 1e6, float(EMBODIED.value.split()[0]))
    one = HostType(
        name=name,
        cores=cores,
        threads=table.number("threads", cores, 16 * cores, cores),
        memory_mib=memory,
        reserve_mib=1024 * table.number("reserve_gib", 0, memory / 1024, _RESERVE * memory / 1024),
        curve=_curve(table),
        rating=table.number("rating", 0.01, 100, 1),
        smt_yield=table.number("smt_yield", 1, 4, 1),
        iops=table.optional_number("iops", 1, 1e10),
        network=table.optional_number("network_mib_s", 0.1, 1e7),
        rack_units=table.number("rack_units", 0.1, 60, 1),
        per_rack=table.whole("hosts_per_rack", 1, 1000) or 20,
        price=table.optional_number("price", 0, 1e9),
        licence=table.optional_number("licence", 0, 1e9),
        embodied_kg=embodied,
        life_years=table.number("life_years", 0.5, 50, _LIFE),
        count=table.whole("count", 1, _MAX_HOSTS),
        names=table.texts("names"),
        racks=table.texts("racks"),
    )
    table.finish()
    return replace(_checked(one, table), assumptions=tuple(_type_assumptions(one, table)))


def _type_assumptions(one: HostType, table: TomlTable) -> Iterator[Assumption]:
    def row(what: str, value: str, key: str, source: str = "assumed") -> Assumption:
        return Assumption(f"{what} of {one.name}", value, GIVEN if key in table else source)

    reserve = f"{one.reserve_mib / 1024:.4g} of {one.memory_mib / 1024:.4g} GiB"
    yield row("memory for the host itself", reserve, "reserve_gib")
    yield row("rating", f"{one.rating:g}", "rating")
    cores = f"{one.cores:g} cores of {one.threads:g} threads"
    if one.smt_yield > 1:
        cores += f", which do {one.smt_yield:g} times as much together"
    yield row("CPUs that count", cores, "smt_yield", "cores, since the threads' yield is not given")
    watts = f"{one.curve.watts[0]:.4g} W idle, {one.curve.watts[-1]:.4g} W at full load"
    yield Assumption(f"power of {one.name}", watts, one.curve.source)
    yield row(EMBODIED.name, f"{one.embodied_kg:g} kg", "embodied_kg", EMBODIED.source)
    yield row("life", f"{one.life_years:g} years", "life_years")
    for what, key, price in (("price", "price", one.price), ("licence", "licence", one.licence)):
        yield row(what, NOT_GIVEN if price is None else f"{price:g}", key, NOT_GIVEN)


def _checked(one: HostType, table: TomlTable) -> HostType:
    """With the count of the hosts that exist. Raises PlanError for a contradiction."""
    if one.racks and len(one.racks) != len(one.names):
        raise table.error(
            f"{table.label('racks')} has {len(one.racks)} entries for {len(one.names)} names",
            "name the rack of each host, or leave racks out",
        )
    if one.names and one.count not in (None, len(one.names)):
        raise table.error(
            f"{table.label('count')} = {one.count} for {len(one.names)} names",
            "leave count out for hosts that exist",
        )
    if one.smt_yield > 1 and one.threads <= one.cores:
        raise table.error(
            f"{table.label('smt_yield')} = {one.smt_yield:g} for cores with one thread",
            f"give {table.label('threads')}, or leave smt_yield out",
        )
    return replace(one, count=len(one.names)) if one.names else one


def _curve(table: TomlTable) -> PowerCurve:
    watts = table.numbers("watts", len(LOADS), 0, 1e6)
    curves = default_curves()
    name = table.text("curve")
    if watts and name:
        raise table.error(
            f"{table.label('watts')} and {table.label('curve')} are both given", "keep one of them"
        )
    if watts and watts[-1] < watts[0]:
        raise table.error(
            f"{table.label('watts')} falls from {watts[0]:g} to {watts[-1]:g}",
            "begin with the watts of an idle host",
        )
    if watts:
        return PowerCurve(watts, "given")
    if name is not None and name not in curves:
        raise table.error(
            f"{table.label('curve')} = {name!r}", f"give watts, or one of {', '.join(curves)}"
        )
    return curves[name or DEFAULT_CURVE]


def _check_names(file: TomlTable, types: tuple[HostType, ...]) -> None:
    seen: dict[str, str] = {}
    for one in types:
        for name in one.names:
            if name in seen:
                raise file.error(
                    f"host {name!r} is named twice, in host.{seen[name]} and in host.{one.name}",
                    "name each host once",
                )
            seen[name] = one.name


def _site(file: TomlTable) -> Site:
    table, licences = file.table("site"), file.table("licences")
    currency = table.text("currency", "USD") or ""
    price = table.optional_number("energy_price", 0, 1e6)
    if price is None and currency == "USD":
        price = float(ENERGY_PRICE.value.split()[0])
    site = Site(
        currency=currency,
        pue=table.number("pue", 1, 10, float(PUE.value)),
        kg_per_kwh=table.number("kg_co2_per_kwh", 0, 10, float(CARBON.value.split()[0])),
        energy_price=price,
        rack_unit_price=table.optional_number("rack_unit_price", 0, 1e6),
        licences=tuple((name, licences.number(name, 0, 1e9)) for name in licences.keys()),  # noqa: SIM118
    )
    table.finish()
    return replace(site, assumptions=tuple(_site_assumptions(site, table)))


def _site_assumptions(site: Site, table: TomlTable) -> Iterator[Assumption]:
    def row(default: Assumption, value: str, key: str) -> Assumption:
        return Assumption(default.name, value, GIVEN) if key in table else default

    yield row(PUE, f"{site.pue:g}", "pue")
    yield row(CARBON, f"{site.kg_per_kwh:g} kg CO2/kWh", "kg_co2_per_kwh")
    if site.energy_price is None:
        yield Assumption(ENERGY_PRICE.name, NOT_GIVEN, NOT_GIVEN)
    else:
        yield row(ENERGY_PRICE, f"{site.energy_price:g} {site.currency}/kWh", "energy_price")
    if site.rack_unit_price is None:
        yield Assumption("price of a rack unit", NOT_GIVEN, NOT_GIVEN)
    else:
        text = f"{site.rack_unit_price:g} {site.currency} a year"
        yield Assumption("price of a rack unit", text, GIVEN)
    for name, licence in site.licences:
        yield Assumption(f"licence {name}", f"{licence:g} {site.currency} a host and year", GIVEN)


def _today(file: TomlTable, types: tuple[HostType, ...]) -> Today | None:
    if "today" not in file:
        return None
    table = file.table("today")
    name, servers = table.text("type"), table.text("servers", "hosts")
    names = [one.name for one in types]
    if name not in names:
        raise table.error(f"today.type = {name!r}", f"use a type of host: {', '.join(names)}")
    if servers not in ("machines", "hosts"):
        raise table.error(f"today.servers = {servers!r}", 'use "machines" or "hosts"')
    table.finish()
    return Today(name, "machines" if servers == "machines" else "hosts")
