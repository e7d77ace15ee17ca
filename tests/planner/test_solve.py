"""From a data folder to a plan, with the simplest solver in place of the real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import PlanError
from harness.planner.cases import parse_what_if
from harness.planner.constraints import NamedConstraints
from harness.planner.data_folder import DataFolder
from harness.planner.hosts_file import HostsFile, Today
from harness.planner.overhead import Overhead, assumed_overhead
from harness.planner.plan import Plan
from harness.planner.plan_inputs import SolveOptions
from harness.planner.problem import Packing, Problem
from harness.planner.reduction import CPU
from harness.planner.solve import make_plan
from harness.planner.trace import METRICS
from tests.planner.data_folders import HOST, Machine, steady, write_data
from tests.planner.first_fit import first_fit
from tests.planner.test_reduction import HOSTS, random_machines

STEP = 3600.0
DAYS = 28
MOMENTS = DAYS * 24
OLD = replace(HOST, name="old", cores=8.0, threads=8.0, memory_mib=8192.0)
NO_OVERHEAD = Overhead(memory_mib=0.0)


def never() -> bool:
    return False


def planned(
    folder: DataFolder,
    hosts: HostsFile = HOSTS,
    *,
    overhead: Overhead = NO_OVERHEAD,
    stop: Callable[[], bool] = never,
    pack: Any = first_fit,
    **options: Any,
) -> Plan:
    return make_plan(folder, hosts, overhead, SolveOptions(**options), pack=pack, stop=stop)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    """30 machines with four weeks of random demand and two without samples."""
    machines = [
        *random_machines(30, MOMENTS, seed=3),
        Machine("new"),
        Machine("template", about={"template": True}),
    ]
    path = tmp_path_factory.mktemp("data") / "data"
    return write_data(path, machines, moments=MOMENTS, step=STEP)


@pytest.fixture(scope="module")
def plan(folder: DataFolder) -> Plan:
    return planned(
        folder,
        replace(HOSTS, types=(HOST, OLD), today=Today("old", "machines")),
        overhead=assumed_overhead(),
        what_ifs=tuple(map(parse_what_if, ("grow=1.5", "fail=host", "pue=3", "host=old"))),
        burst=1.1,
    )


def test_every_machine_runs_on_one_host(plan: Plan) -> None:
    names = sorted(name for host in plan.hosts for name in host.machines)
    assert names == sorted([*(f"vm-{n}" for n in range(30)), "new"])
    assert plan.left_out == ("template",)
    assert plan.without_trace == ("new",)


def test_the_headline_has_servers_hosts_and_bound(plan: Plan) -> None:
    assert plan.headline == f"31 servers to {len(plan.hosts)} hosts, bound {plan.bound:g}"
    assert 0 < plan.bound <= len(plan.hosts) == plan.after.hosts
    assert "of all machines needs so many hosts" in plan.bound_reason


def test_no_host_is_over_its_target(plan: Plan) -> None:
    for host in plan.hosts:
        assert set(host.peak) == set(METRICS)
        assert max(host.peak.values()) <= 1.0001
        assert max(host.hours) == pytest.approx(host.peak["cpu"], rel=1e-4)
    assert not any("exceed their target" in banner for banner in plan.banners)


def test_energy_is_that_of_the_hosts(plan: Plan) -> None:
    assert plan.after.kw == pytest.approx(sum(host.watts for host in plan.hosts) * 1.5 / 1000)
    assert plan.before is not None
    assert plan.before.hosts == 31
    assert 0.1 * 31 * 1.5 < plan.before.kw < 0.3 * 31 * 1.5  # a server has 100 to 300 W


def test_what_ifs_stand_beside_the_plan(plan: Plan) -> None:
    variants = {one.name: one for one in plan.variants}
    own = variants["this plan"]
    assert own.hosts == len(plan.hosts)
    assert variants["grow=1.5"].hosts > own.hosts
    assert variants["fail=host"].hosts == own.hosts + 1
    assert variants["pue=3"].hosts == own.hosts
    assert variants["pue=3"].kwh == pytest.approx(2 * own.kwh)
    assert variants["host=old"].hosts > own.hosts
    assert variants["each machine's own peak"].hosts > own.hosts
    for one in plan.variants:
        assert one.bound <= one.hosts


def test_the_tornado_has_hosts_and_cost(plan: Plan) -> None:
    bars = {(one.name, one.unit): one for one in plan.tornado}
    growth = bars["Growth", "hosts"]
    assert growth.low < growth.base < growth.high
    target = bars["Target utilization", "hosts"]
    assert target.low >= target.base >= target.high
    pue = bars["PUE", "USD a year"]
    assert pue.low == pytest.approx(pue.base * 1.2 / 1.5)
    idle = bars["Idle watts", "USD a year"]
    assert idle.low < idle.base < idle.high


def test_demand_is_the_highest_sum_of_each_hour(plan: Plan, folder: DataFolder) -> None:
    cpu = plan.demand[CPU]
    assert cpu.allocated == 31 * 4
    assert len(cpu.hours) == 168
    assert cpu.usable == pytest.approx(len(plan.hosts) * 7)
    machines = random_machines(30, MOMENTS, seed=3)
    total = np.nansum([one.values["cpu_cores"] for one in machines], axis=0)
    measured = 1.1 * np.max(total.reshape(4, 168), axis=0) + 4  # "new" needs its vCPUs
    hours = np.array(cpu.hours)
    assert (hours >= measured * (1 - 1e-5)).all()
    assert np.median(hours / measured) == pytest.approx(1, abs=0.1)  # a few samples are missing
    assert plan.demand[1].allocated == 31 * 4096


def test_assumptions_have_sources(plan: Plan) -> None:
    rows = {one.name: one for one in plan.assumptions}
    assert rows["target utilization of CPUs"].source == "assumed"
    assert rows["CPU demand within a step"].source == "given"
    assert rows["CPU of machines without a trace"].source == "allocation"
    assert all(one.source for one in plan.assumptions)
    assert len(rows) == len(plan.assumptions)


def test_the_backtest_plans_on_three_weeks(plan: Plan) -> None:
    back = plan.backtest
    assert back is not None
    assert (back.planned_days, back.checked_days) == (21, 7)
    assert back.samples == back.hosts * 7 * 24
    assert 0 <= back.over_capacity <= back.over_target < back.samples


def test_the_backtest_counts_what_the_plan_could_not_know(tmp_path: Path) -> None:
    """Two machines fit on one host, but in the fourth week they need more than ever before."""
    cpu = np.full(MOMENTS, 6.0)
    cpu[-10:], cpu[-3:] = 8.0, 12.0  # of 20 cores, the target is 14
    machines = [
        Machine(name, {"cpu_cores": cpu, "memory_mib": np.full(MOMENTS, 10.0)}) for name in "ab"
    ]
    folder = write_data(tmp_path / "data", machines, moments=MOMENTS, step=STEP)
    hosts = replace(HOSTS, types=(replace(HOST, cores=20.0, threads=20.0),))
    plan = planned(folder, hosts)
    back = plan.backtest
    assert back is not None
    assert (plan.after.hosts, back.hosts) == (2, 1)
    assert (back.samples, back.over_target, back.over_capacity) == (168, 10, 3)
    assert back.worst == pytest.approx(24 / 20)


def test_a_short_trace_has_a_banner_and_a_shorter_backtest(tmp_path: Path) -> None:
    machines = random_machines(3, 100)
    plan = planned(write_data(tmp_path / "data", machines, moments=100, step=STEP))
    assert any("covers 4.2 days" in one for one in plan.banners)
    assert plan.backtest is not None
    assert plan.backtest.planned_days == pytest.approx(3.125)
    short = write_data(tmp_path / "short", random_machines(3, 20), moments=20, step=STEP)
    assert planned(short).backtest is None


def test_without_any_trace_the_allocation_is_planned(tmp_path: Path) -> None:
    machines = [Machine(f"vm-{n}") for n in range(10)]
    plan = planned(write_data(tmp_path / "data", machines, moments=1))
    assert len(plan.without_trace) == 10
    assert "No machine has a trace" in plan.banners[0]
    assert len(plan.hosts) == 10  # one of 4 vCPUs on 7 usable cores
    assert plan.backtest is None
    assert plan.demand[CPU].hours == (40.0,) * 168
    assert plan.hosts[0].watts == pytest.approx(100 + 200 * 0.4)


def test_an_interruption_leaves_the_plan_alone(folder: DataFolder) -> None:
    calls: list[int] = []

    def pack(problem: Problem, **more: Any) -> Packing:
        calls.append(1)
        return first_fit(problem, **more)

    what_ifs = (parse_what_if("grow=1.2"),)
    plan = planned(folder, pack=pack, stop=lambda: bool(calls), what_ifs=what_ifs)
    assert plan.interrupted
    assert len(calls) == 1
    assert [one.name for one in plan.variants] == ["this plan"]
    assert plan.backtest is None
    assert {one.name for one in plan.tornado} == {"PUE", "Price of energy", "Idle watts"}
    assert max(host.peak["cpu"] for host in plan.hosts) > 0  # verified all the same


def test_a_what_if_that_cannot_be_planned_is_told(tmp_path: Path) -> None:
    folder = write_data(
        tmp_path / "data", [steady("large", 6, MOMENTS)], moments=MOMENTS, step=STEP
    )
    plan = planned(folder, what_ifs=(parse_what_if("grow=3"),))
    assert "grow=3 cannot be planned: machine large fits no host." in plan.banners
    assert "grow=3" not in {one.name for one in plan.variants}
    with pytest.raises(PlanError, match="fits no host"):
        planned(folder, overhead=replace(NO_OVERHEAD, utilization=0.3))


EXISTING = replace(OLD, names=("esx1", "esx2", "esx3"), count=3, racks=("A", "A", "B"))


def fleet_of_today(tmp_path: Path) -> DataFolder:
    machines = [
        steady("a", 1, MOMENTS, host="esx1"),
        steady("b", 1, MOMENTS, host="esx2"),
        steady("c", 0.5, MOMENTS, host="esx2"),
    ]
    return write_data(
        tmp_path / "data", machines, moments=MOMENTS, step=STEP, hosts=("esx1", "esx2", "esx3")
    )


def test_hosts_of_today_are_compared_and_moves_listed(tmp_path: Path) -> None:
    folder = fleet_of_today(tmp_path)
    plan = planned(folder, replace(HOSTS, types=(EXISTING, HOST)), use="existing")
    assert plan.before is not None
    assert (plan.before.hosts, plan.before.racks) == (3, 2)
    utilization = np.array([1, 1.5, 0]) / 8
    assert plan.before.cpu_utilization == pytest.approx(utilization.mean())
    assert plan.before.kw == pytest.approx((100 + 200 * utilization).sum() * 1.5 / 1000)
    assert {(one.name, one.existing) for one in plan.hosts} == {("esx1", True)}
    assert {(one.machine, one.source, one.target) for one in plan.moves} == {
        ("b", "esx2", "esx1"),
        ("c", "esx2", "esx1"),
    }
    assert plan.headline.startswith("3 servers to 1 host, bound")


def test_new_hosts_alone_may_be_used(tmp_path: Path) -> None:
    folder = fleet_of_today(tmp_path)
    plan = planned(folder, replace(HOSTS, types=(EXISTING, HOST)), use="new")
    assert [one.existing for one in plan.hosts] == [False]
    with pytest.raises(PlanError, match="no type of host is existing"):
        planned(folder, HOSTS, use="existing")


def test_the_inventory_names_the_hosts_of_today(tmp_path: Path) -> None:
    folder = fleet_of_today(tmp_path)
    plan = planned(folder, replace(HOSTS, types=(HOST, OLD), today=Today("old", "hosts")))
    assert plan.before is not None
    assert plan.before.hosts == 3


def test_without_types_of_today_there_is_no_comparison(tmp_path: Path) -> None:
    plan = planned(fleet_of_today(tmp_path))
    assert plan.before is None
    assert plan.headline.startswith("3 machines on 1 host, bound")
    assert any("no type for 2 hosts of today, such as esx1" in one for one in plan.banners)


def test_constraints_reach_the_solver(tmp_path: Path) -> None:
    problems: list[Problem] = []

    def pack(problem: Problem, **more: Any) -> Packing:
        problems.append(problem)
        return first_fit(problem, **more)

    constraints = NamedConstraints(apart=(("a", "b"),), licensed=(("database", ("c",)),))
    site = replace(HOSTS.site, licences=(("database", 500.0),))
    hosts = replace(HOSTS, constraints=constraints, site=site)
    plan = planned(fleet_of_today(tmp_path), hosts, pack=pack, spare=1)
    assert problems[0].constraints.apart == ((0, 1),)
    assert problems[0].constraints.licensed == ((2,),)
    assert problems[0].spare == 1
    assert plan.after.licence_cost == 500
    assert plan.bound_reason == "After a host has failed, the others must carry all machines."


def test_plans_are_the_same_for_the_same_seed(folder: DataFolder) -> None:
    assert planned(folder, seed=7) == planned(folder, seed=7)
