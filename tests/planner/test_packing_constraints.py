"""Each constraint and each kind of host in a problem that one can solve by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from harness.planner.packing import solve
from harness.planner.problem import Constraints, Packing, Problem
from tests.planner.packing_problems import host_type, problem_of, violations


def solved(problem: Problem, seconds: float = 20) -> Packing:
    packing = solve(problem, seconds=seconds)
    assert violations(problem, packing) == []
    return packing


def test_machines_that_are_busy_at_different_times_share_a_host() -> None:
    packing = solved(problem_of([[9, 1], [1, 9], [9, 1], [1, 9]], host_type("h", 10)))
    assert (len(packing.hosts), packing.status, packing.bound) == (2, "optimal", 2)
    assert [host.name for host in packing.hosts] == ["h-1", "h-2"]


def test_a_metric_without_a_limit_has_no_influence() -> None:
    demand = np.ones((6, 4, 2), np.float32)
    demand[:, 1:] = 1e6
    assert len(solved(problem_of(demand, host_type("h", 6))).hosts) == 1


def test_without_any_limit_all_machines_share_a_host() -> None:
    assert len(solved(problem_of([[5]] * 9, host_type("h"))).hosts) == 1


def test_no_machines_need_no_host() -> None:
    packing = solved(problem_of(np.zeros((0, 1, 1), np.float32), host_type("h", 1)))
    assert (packing.hosts, packing.bound, packing.status) == ((), 0, "optimal")


def test_apart_machines_need_as_many_hosts() -> None:
    problem = problem_of([[1]] * 6, host_type("h", 10), Constraints(apart=((0, 1, 2, 3),)))
    packing = solved(problem)
    assert (len(packing.hosts), packing.bound) == (4, 4)
    assert "apart" in packing.bound_reason


def test_groups_that_overlap_and_are_together_are_one() -> None:
    constraints = Constraints(together=((0, 1), (1, 2)), apart=((2, 3),))
    packing = solved(problem_of([[1]] * 4, host_type("h", 10), constraints))
    assert sorted(host.machines for host in packing.hosts) == [(0, 1, 2), (3,)]


def test_a_pinned_machine_runs_on_its_host() -> None:
    hosts = host_type("old", 10, count=3, names=["a", "b", "c"], racks=["r1", "r1", "r2"])
    packing = solved(problem_of([[4], [4], [4]], hosts, Constraints(pins={1: "c"})))
    assert {host.name for host in packing.hosts} >= {"c"}
    assert len(packing.hosts) == 2
    assert next(host.rack for host in packing.hosts if host.name == "c") == "r2"


def test_no_more_than_half_of_a_spread_group_shares_a_rack() -> None:
    problem = problem_of(
        [[1]] * 6, host_type("h", 10, per_rack=4), Constraints(spread=((0, 1, 2, 3, 4),))
    )
    packing = solved(problem)
    racks = Counter(host.rack for host in packing.hosts for m in host.machines if m < 5)
    assert max(racks.values()) == 2


def test_machines_of_a_licence_run_on_the_fewest_hosts() -> None:
    licensed = tuple(range(0, 24, 4))
    problem = problem_of(
        [[3 + k % 3] for k in range(24)], host_type("h", 13), Constraints(licensed=(licensed,))
    )
    packing = solved(problem)
    used = [host for host in packing.hosts if set(licensed).intersection(host.machines)]
    total = sum(3 + k % 3 for k in licensed)
    assert len(used) == -(-total // 13)


def test_a_licensed_machine_that_is_pinned_draws_the_others_to_its_host() -> None:
    hosts = host_type("old", 10, count=4, names=["a", "b", "c", "d"])
    constraints = Constraints(licensed=((0, 1, 2),), pins={0: "d"})
    packing = solved(problem_of([[3]] * 3 + [[5]] * 3, hosts, constraints))
    assert next(host.name for host in packing.hosts if 0 in host.machines) == "d"
    assert sum(bool({0, 1, 2} & set(host.machines)) for host in packing.hosts) == 1


def test_the_cheapest_mixture_of_types_is_found() -> None:
    # two large hosts cost 20, eight small ones 24; a large and three small ones 19
    shapes = [host_type("small", 10, cost=3), host_type("large", 45, cost=10)]
    packing = solved(problem_of([[5]] * 14, shapes))
    assert Counter(host.shape for host in packing.hosts) == {0: 3, 1: 1}
    assert (packing.bound, packing.status) == (19, "optimal")


def test_existing_hosts_are_used_before_new_ones_are_bought() -> None:
    shapes = [
        host_type("old", 10, count=2, cost=0.1, names=["a", "b"]),
        host_type("new", 20, cost=1),
    ]
    packing = solved(problem_of([[5]] * 8, shapes))
    assert Counter(host.shape for host in packing.hosts) == {0: 2, 1: 1}


def test_a_machine_that_fits_on_one_type_only_gets_it() -> None:
    shapes = [host_type("small", 10, 100), host_type("memory", 10, 1000, cost=5)]
    demand = np.zeros((5, 2, 1), np.float32)
    demand[:, 0, 0], demand[:, 1, 0] = 5, 40
    demand[4, 1, 0] = 900
    packing = solved(problem_of(demand, shapes))
    assert Counter(host.shape for host in packing.hosts) == {0: 2, 1: 1}


@pytest.mark.parametrize("machines", [60, 400])
def test_all_constraints_at_once(machines: int) -> None:
    random = np.random.default_rng(machines)
    demand = random.lognormal(0, 0.6, (machines, 4, 12)).astype(np.float32)
    numbers = random.permutation(machines)
    groups = [tuple(numbers[k : k + 4].tolist()) for k in range(0, machines // 2, 4)]
    names = [f"old-{k}" for k in range(5)]
    constraints = Constraints(
        apart=tuple(groups[::5]),
        together=tuple(group[:2] for group in groups[1::5]),
        spread=tuple(groups[2::5]),
        licensed=tuple(groups[3::5]),
        conflicts=tuple((group[0], group[3]) for group in groups[4::5]),
        pins={int(numbers[-1]): "old-3", int(numbers[-2]): "old-0"},
    )
    shapes = [
        host_type("old", 30, 30, 40, 40, count=5, names=names, racks=["x", "x", "y", "y", "y"]),
        host_type("new", 60, 50, 60, 60, per_rack=3, cost=1.6),
    ]
    packing = solved(problem_of(demand, shapes, constraints))
    cost = sum(shapes[host.shape].cost for host in packing.hosts)
    assert packing.bound * (1 - 1e-9) <= cost <= 1.12 * packing.bound
