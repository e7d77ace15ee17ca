"""What-ifs and views: how they are written, and what they change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.errors import PlanError
from harness.planner.cases import (
    Case,
    changed,
    parse_what_if,
    view_cases,
    viewed,
    what_if_case,
)
from harness.planner.model import Model, host_costs
from harness.planner.overhead import assumed_overhead
from harness.planner.reduction import CPU, IOPS, MEMORY
from harness.planner.tornado import swings
from tests.planner.data_folders import HOST, Machine, write_data
from tests.planner.test_reduction import HOSTS, SITE, reduced

OLD = replace(HOST, name="old", names=("esx1",), count=1)
BASE = Case("this plan", Model(assumed_overhead()), (HOST, OLD), SITE)
BOTH = replace(HOSTS, types=(HOST, OLD))


def test_a_what_if_changes_what_it_names_and_nothing_else() -> None:
    case = what_if_case(BASE, parse_what_if("grow=1.2, host=old ,pue=1.1"), BOTH)
    assert case.name == "grow=1.2, host=old ,pue=1.1"
    assert (case.model.growth, case.types, case.site.pue) == (1.2, (OLD,), 1.1)
    assert replace(case, name=BASE.name, model=BASE.model, types=BASE.types, site=SITE) == BASE


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("burst=1.15", "burst", 1.15),
        ("fail=host", "spare", 1),
        ("fail=rack", "spare_racks", 1),
    ],
)
def test_what_ifs_of_the_model(text: str, field: str, value: float) -> None:
    case = what_if_case(BASE, parse_what_if(text), BOTH)
    assert getattr(case.model, field) == value
    assert bool(case.note) == text.startswith("fail")


def test_failures_are_added_to_those_that_the_plan_survives() -> None:
    base = replace(BASE, model=replace(BASE.model, spare=2))
    case = what_if_case(base, parse_what_if("fail=host"), BOTH)
    assert (case.model.spare, case.note) == (3, "any 3 hosts may fail")


def test_a_given_utilization_is_no_longer_assumed() -> None:
    case = what_if_case(BASE, parse_what_if("utilization=0.5"), BOTH)
    assert case.model.overhead.utilization == 0.5
    assert case.model.overhead.banners == ()
    assert what_if_case(BASE, parse_what_if("price=0.4"), BOTH).site.energy_price == 0.4


@pytest.mark.parametrize(
    ("text", "cause", "hint"),
    [
        ("grow", "--what-if 'grow' cannot be used", "give NAME=VALUE"),
        ("shrink=2", "--what-if 'shrink=2' cannot be used", "grow, host, fail"),
        ("grow=1.2,grow=1.3", "'grow=1.3'", "each NAME once"),
        ("grow=much", "--what-if grow=much", "give a number from 0.1 to 100"),
        ("grow=nan", "--what-if grow=nan", "give a number"),
        ("utilization=0.99", "--what-if utilization=0.99", "from 0.05 to 0.95"),
        ("fail=moon", "--what-if fail=moon", "use fail=host or fail=rack"),
        ("host=", "--what-if 'host=' cannot be used", "give NAME=VALUE"),
    ],
)
def test_bad_what_ifs_are_refused(text: str, cause: str, hint: str) -> None:
    with pytest.raises(PlanError) as raised:
        parse_what_if(text)
    assert cause in raised.value.cause
    assert hint in raised.value.hint


def test_a_what_if_with_an_unknown_host_is_refused() -> None:
    with pytest.raises(PlanError, match="no type of host 'best'") as raised:
        what_if_case(BASE, parse_what_if("host=best"), BOTH)
    assert raised.value.hint == "use new, old"


def test_views_see_peaks_percentiles_and_allocation(tmp_path: Path) -> None:
    cpu = np.ones(100)
    cpu[7] = 3.0
    values = {"cpu_cores": cpu, "memory_mib": np.full(100, 500.0), "read_iops": 10 * cpu}
    machines = [Machine("vm", values), Machine("new")]
    profile = reduced(write_data(tmp_path / "data", machines, moments=100))
    peaks, p95, allocation = (viewed(profile, case).demand for case in view_cases(BASE))
    assert peaks[0, [CPU, MEMORY, IOPS], 0].tolist() == [3, 500, 30]
    assert p95[0, CPU, 0] == pytest.approx(1.2)
    assert p95[0, MEMORY, 0] == 500
    # 4 vCPUs at 4 a core, of all cores of a host whose target is 70 %
    assert allocation[:, CPU, 0].tolist() == pytest.approx([0.7, 0.7])
    assert allocation[:, MEMORY, 0].tolist() == [4096, 4096]
    assert (allocation[:, IOPS] == 0).all()
    assert peaks[1, CPU, 0] == 4
    assert viewed(profile, BASE) is profile


def test_swings_change_one_assumption_each() -> None:
    found = {one.name: one for one in swings(BASE, means_only=True)}
    assert list(found) == ["Growth", "Target utilization", "Burst"]
    growth = found["Growth"]
    assert (growth.low.model.growth, growth.high.model.growth) == (0.8, 1.2)
    assert replace(growth.low, model=BASE.model) == BASE
    target = found["Target utilization"]
    assert target.low.model.overhead.utilization == pytest.approx(0.6)
    assert "Burst" not in {one.name for one in swings(BASE, means_only=False)}
    high = changed(BASE, "utilization", 0.92)
    assert swings(high, means_only=False)[1].high.model.overhead.utilization == 0.95


def test_hosts_are_chosen_by_cost_only_if_all_prices_are_given() -> None:
    costs, row = host_costs([HOST, OLD], SITE)
    assert costs == [1.0, 1.0]
    assert row is not None
    assert row.source == "not all prices are given"
    priced = replace(HOST, price=5000.0, life_years=5.0)
    costs, row = host_costs([priced, OLD], SITE)
    energy = 200 * 8.76 * SITE.pue * 0.1  # 200 W at half load
    assert costs == [pytest.approx(1000 + energy), pytest.approx(energy)]
    assert host_costs([HOST], SITE) == ([1.0], None)
