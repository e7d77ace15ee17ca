"""Totals of a set of hosts: space, energy, carbon, money."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.planner import energy, money
from harness.planner.hosts_file import HostType, Site
from harness.planner.plan import Fleet


@dataclass(frozen=True)
class FleetLoad:
    """What hosts draw and do on average.

    types, racks: of each host; no racks where they follow from the hosts of a rack. watts: of all
    hosts, without PUE. utilization: of the CPUs of all hosts, from 0 to 1. licensed_hosts: by
    licence the number of hosts that need it.
    """

    types: Sequence[HostType]
    racks: Sequence[str]
    watts: float
    utilization: float
    licensed_hosts: Mapping[str, int]


def make_fleet(load: FleetLoad, site: Site) -> Fleet:
    types = load.types
    kilowatts = load.watts * site.pue / 1000
    kwh = energy.kwh_a_year(kilowatts)
    embodied = sum(one.embodied_kg / one.life_years for one in types)
    return Fleet(
        hosts=len(types),
        cores=sum(one.cores for one in types),
        memory_gib=sum(one.memory_mib for one in types) / 1024,
        racks=len(set(load.racks)) if load.racks else _racks(types),
        rack_units=sum(one.rack_units for one in types),
        kw=kilowatts,
        kwh=kwh,
        kg_co2=energy.carbon_a_year(kwh, site.kg_per_kwh, embodied),
        energy_cost=money.energy_cost(site, kwh),
        hardware_cost=money.hardware_cost(types),
        licence_cost=money.licence_cost(types, site, load.licensed_hosts),
        rack_cost=money.rack_cost(types, site),
        cpu_utilization=load.utilization,
    )


def _racks(types: Sequence[HostType]) -> int:
    """Racks that are full of hosts of one type each."""
    per_rack = {one.name: one.per_rack for one in types}
    counts = Counter(one.name for one in types)
    return sum(math.ceil(count / per_rack[name]) for name, count in counts.items())
