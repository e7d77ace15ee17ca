"""Totals of a fleet: energy, carbon and money, and what nobody gave."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.planner.fleet import FleetLoad, make_fleet
from harness.planner.hosts_file import HostType, Site
from harness.planner.money import total_cost
from tests.planner.data_folders import HOST

SITE = Site("USD", pue=1.5, kg_per_kwh=0.4, energy_price=0.1, rack_unit_price=None)


def load(*types: HostType, watts: float = 0.0, racks: tuple[str, ...] = ()) -> FleetLoad:
    return FleetLoad(types, racks, watts, 0.25, {"database": 2, "other": 1})


def test_energy_and_carbon_of_a_year() -> None:
    host = replace(HOST, embodied_kg=1000.0, life_years=4.0, rack_units=2.0)
    fleet = make_fleet(load(host, host, watts=400.0), SITE)
    assert fleet.kw == pytest.approx(0.6)  # with PUE
    assert fleet.kwh == pytest.approx(0.6 * 8760)
    assert fleet.kg_co2 == pytest.approx(0.6 * 8760 * 0.4 + 2 * 1000 / 4)
    assert fleet.energy_cost == pytest.approx(0.6 * 8760 * 0.1)
    assert (fleet.hosts, fleet.cores, fleet.rack_units) == (2, 20, 4)
    assert fleet.cpu_utilization == 0.25


def test_what_nobody_gave_has_no_cost() -> None:
    fleet = make_fleet(load(HOST, watts=100.0), SITE)
    assert fleet.hardware_cost is fleet.licence_cost is fleet.rack_cost is None
    assert total_cost(fleet) == fleet.energy_cost
    nothing = make_fleet(load(HOST, watts=100.0), replace(SITE, energy_price=None))
    assert nothing.energy_cost is None
    assert total_cost(nothing) is None


def test_a_price_of_zero_is_not_a_price_that_nobody_gave() -> None:
    free = make_fleet(load(replace(HOST, price=0.0), watts=1.0), replace(SITE, energy_price=0.0))
    assert (free.hardware_cost, free.energy_cost, total_cost(free)) == (0.0, 0.0, 0.0)


def test_prices_are_spread_over_the_life_of_a_host() -> None:
    bought = replace(HOST, price=9000.0, life_years=3.0, licence=100.0)
    fleet = make_fleet(
        load(bought, bought, HOST),
        replace(SITE, rack_unit_price=50.0, licences=(("database", 700.0),)),
    )
    assert fleet.hardware_cost == pytest.approx(6000)
    assert fleet.licence_cost == pytest.approx(2 * 100 + 2 * 700)
    assert fleet.rack_cost == pytest.approx(3 * 50)


def test_racks_are_counted_or_follow_from_the_hosts_of_a_rack() -> None:
    assert make_fleet(load(HOST, HOST, HOST, racks=("a", "b", "a")), SITE).racks == 2
    small, large = replace(HOST, name="s", per_rack=2), replace(HOST, name="l", per_rack=10)
    assert make_fleet(load(small, small, small, large), SITE).racks == 3
