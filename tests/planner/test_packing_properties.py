"""What holds for every packing, for random problems."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.planner.packing import solve
from harness.planner.problem import Packing, Problem
from tests.planner.packing_problems import optimum, problems, violations

SETTINGS = settings(max_examples=60, deadline=None)


def cost(problem: Problem, packing: Packing) -> float:
    costs = {shape.cost for shape in problem.shapes}
    if len(costs) == 1:
        return len(packing.hosts)
    return sum(problem.shapes[host.shape].cost for host in packing.hosts)


@SETTINGS
@given(problems())
def test_every_constraint_is_kept(problem: Problem) -> None:
    packing = solve(problem, seconds=20)
    assert violations(problem, packing) == []
    assert packing.bound <= cost(problem, packing) * (1 + 1e-9)
    assert packing.bound_reason


@SETTINGS
@given(problems(most=9, constrained=False))
def test_small_problems_are_solved_to_the_proved_optimum(problem: Problem) -> None:
    problem = replace(problem, shapes=problem.shapes[:1])
    packing = solve(problem, seconds=60)
    assert packing.status == "optimal"
    assert len(packing.hosts) == packing.bound == optimum(problem)


@settings(max_examples=25, deadline=None)
@given(problems(most=8))
def test_small_constrained_problems_need_as_few_hosts_as_possible(problem: Problem) -> None:
    constraints = replace(problem.constraints, licensed=(), spread=())
    problem = replace(problem, shapes=problem.shapes[:1], constraints=constraints)
    assert len(solve(problem, seconds=60).hosts) == optimum(problem)


@settings(max_examples=25, deadline=None)
@given(problems(), st.sampled_from([0.125, 3.0, 1000.0]), st.integers(0, 3))
def test_a_unit_has_no_influence(problem: Problem, factor: float, metric: int) -> None:
    scale = np.ones(4, np.float32)
    scale[metric] = factor
    scaled = replace(
        problem,
        demand=problem.demand * scale[:, None],
        shapes=tuple(
            replace(one, usable=one.usable * scale, failover=one.failover * scale)
            for one in problem.shapes
        ),
    )
    one, other = solve(problem, seconds=20), solve(scaled, seconds=20)
    assert (one.bound, cost(problem, one)) == (other.bound, cost(scaled, other))


@settings(max_examples=40, deadline=None)
@given(problems(constrained=False))
def test_one_more_machine_never_lowers_the_bound(problem: Problem) -> None:
    fewer = replace(problem, machines=problem.machines[:-1], demand=problem.demand[:-1])
    # seconds=0: the bound itself, without what a search proves
    with_all, with_fewer = solve(problem, seconds=0), solve(fewer, seconds=0)
    assert with_all.bound >= with_fewer.bound


@settings(max_examples=25, deadline=None)
@given(problems(), st.integers(0, 3))
def test_the_same_seed_gives_the_same_packing(problem: Problem, seed: int) -> None:
    one, other = (solve(problem, seconds=20, seed=seed) for _ in range(2))
    assert one.hosts == other.hosts
