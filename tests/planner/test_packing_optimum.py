"""Published instances whose optimum is known, and small ones that integer programming proves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from benchmarks.packing import ARCHIVE, check, solve_triplet, triplet_instances
from harness.planner.packing import solve
from harness.planner.packing.bounds import lower_bound
from harness.planner.packing.budget import Budget
from harness.planner.packing.exact import assign
from harness.planner.packing.first_fit import first_fit
from harness.planner.packing.instance import UNBOUNDED, Instance
from tests.planner.packing_problems import host_type, problem_of, violations

INSTANCES = dict(triplet_instances(ARCHIVE))


def test_the_bound_is_the_optimum_of_all_instances() -> None:
    bounds = {name: lower_bound(one, str).value for name, one in INSTANCES.items()}
    assert len(bounds) == 240
    assert bounds == {name: one.items // 3 for name, one in INSTANCES.items()}


@pytest.mark.parametrize("name", [name for name in INSTANCES if "_60_" in name])
def test_sixty_machines_are_solved_exactly(name: str) -> None:
    result = solve_triplet(name, INSTANCES[name])
    assert result.hosts == result.optimum == result.bound
    assert result.proved


@pytest.mark.parametrize("name", ["classC_249_5_3", "classF_120_3_7", "classC_501_3_1"])
def test_large_instances_are_near_the_optimum(name: str) -> None:
    result = solve_triplet(name, INSTANCES[name])
    assert result.gap <= 0.08
    assert result.seconds < 20


def fewest_hosts(instance: Instance, most: int) -> int:
    """By an assignment program of its own, without symmetry breaking or a bound."""
    items, dimensions = instance.sizes.shape
    size = (items + 1) * most
    rows, limits = [], []
    for host in range(most):
        for dimension in range(dimensions):
            row = np.zeros(size)
            row[host : items * most : most] = instance.sizes[:, dimension]
            row[items * most + host] = -instance.capacities[0, dimension]
            rows.append(row)
            limits.append(0.0)
    once = np.zeros((items, size))
    for item in range(items):
        once[item, item * most : (item + 1) * most] = 1
    costs = np.concatenate([np.zeros(items * most), np.ones(most)])
    result = milp(
        costs,
        constraints=[
            LinearConstraint(np.asarray(rows), -np.inf, np.asarray(limits) + 1e-6),
            LinearConstraint(once, 1, 1),
        ],
        bounds=Bounds(0, 1),
        integrality=np.ones(size),
    )
    assert result.status == 0
    return round(result.fun)


@pytest.mark.parametrize("seed", range(6))
def test_the_optimum_of_small_problems_is_that_of_integer_programming(seed: int) -> None:
    random = np.random.default_rng(seed)
    demand = random.uniform(0.05, 0.6, (12 + seed, 2, 3)).astype(np.float32)
    problem = problem_of(demand, host_type("h", 1, 1))
    packing = solve(problem, seconds=120)
    assert violations(problem, packing) == []
    assert packing.status == "optimal"
    instance = array_instance(demand.reshape(len(demand), -1))
    assert len(packing.hosts) == fewest_hosts(instance, len(packing.hosts))


def array_instance(sizes: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Instance:
    dimensions = sizes.shape[1]
    counts = np.asarray([UNBOUNDED], np.int64)
    return Instance(sizes, np.ones((1, dimensions)), np.ones(1), counts)


def test_the_exact_assignment_improves_a_solution() -> None:
    # first-fit decreasing needs 5 + 4, 4 + 3 + 2 and 2; the optimum is 5 + 3 + 2 and 4 + 4 + 2
    sizes = np.asarray([[0.5], [0.4], [0.4], [0.3], [0.2], [0.2]], np.float32)
    instance = array_instance(sizes)
    start = first_fit(instance)
    assert len(start.fillings) == 3
    solution, proved = assign(instance, start, 2.0, Budget(60))
    assert proved
    assert solution is not None
    assert len(solution.fillings) == 2
    check(instance, [filling.items for filling in solution.fillings])
    assert assign(instance, solution, 2.0, Budget(60)) == (None, True)


def test_machines_that_are_busy_all_day_are_balanced_without_loss() -> None:
    random = np.random.default_rng(5)
    rhythm = 1 + np.sin(np.arange(24) / 24 * 2 * np.pi + random.uniform(0, 6, (300, 1)))
    demand = (rhythm * random.lognormal(0, 0.5, (300, 1))).astype(np.float32)
    demand *= random.lognormal(0, 0.2, demand.shape).astype(np.float32)
    problem = problem_of(demand, host_type("h", 30))
    packing = solve(problem, seconds=60)
    assert violations(problem, packing) == []
    assert len(packing.hosts) <= packing.bound + 1


def test_thousands_of_machines_are_packed_in_pools() -> None:
    random = np.random.default_rng(6)
    demand = random.lognormal(0, 0.5, (4000, 2, 8)).astype(np.float32)
    problem = problem_of(demand, host_type("h", 60, 60))
    packing = solve(problem, seconds=120)
    assert violations(problem, packing) == []
    assert len(packing.hosts) <= max(packing.bound + 1, 1.05 * packing.bound)
