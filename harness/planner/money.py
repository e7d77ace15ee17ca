"""What hosts cost in a year. None means that nobody gave a price."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from harness.planner.hosts_file import HostType, Site
from harness.planner.plan import Fleet


def energy_cost(site: Site, kwh: float) -> float | None:
    return None if site.energy_price is None else kwh * site.energy_price


def hardware_cost(types: Iterable[HostType]) -> float | None:
    """The prices of these hosts, spread over their life."""
    return _sum(one.price / one.life_years for one in types if one.price is not None)


def licence_cost(
    types: Iterable[HostType], site: Site, licensed_hosts: Mapping[str, int]
) -> float | None:
    """Licences of these hosts. licensed_hosts: by licence the number of hosts that need it."""
    prices = dict(site.licences)
    of_machines = [prices[name] * count for name, count in licensed_hosts.items() if name in prices]
    return _sum([*(one.licence for one in types if one.licence is not None), *of_machines])


def rack_cost(types: Iterable[HostType], site: Site) -> float | None:
    if site.rack_unit_price is None:
        return None
    return site.rack_unit_price * sum(one.rack_units for one in types)


def total_cost(fleet: Fleet) -> float | None:
    """What is known of the cost of a year."""
    parts: Sequence[float | None] = (
        fleet.energy_cost,
        fleet.hardware_cost,
        fleet.licence_cost,
        fleet.rack_cost,
    )
    return _sum(part for part in parts if part is not None)


def _sum(values: Iterable[float]) -> float | None:
    known = list(values)
    return sum(known) if known else None
