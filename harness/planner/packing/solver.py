"""The solver: from a packing problem to hosts with their machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NoReturn

from harness.errors import PlanError
from harness.planner.packing.bounds import Bound, equal_costs, lower_bound
from harness.planner.packing.budget import Budget
from harness.planner.packing.contradictions import check_items, check_problem
from harness.planner.packing.instance import Instance, Solution
from harness.planner.packing.items import Items, make_items
from harness.planner.packing.licences import merge_licensed
from harness.planner.packing.pools import pack_in_pools
from harness.planner.packing.racks import NotSpreadError, place_hosts
from harness.planner.packing.search import Search
from harness.planner.packing.spare import add_spare_hosts, spare_bound
from harness.planner.problem import PackedHost, Packing, Problem

SEARCHED_ITEMS = 1500  # more are packed in pools


def solve(
    problem: Problem,
    *,
    seconds: float,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
) -> Packing:
    """Pack all machines within every capacity and constraint, on as few or cheap hosts as possible.

    seconds: the search ends then at the latest, and earlier once its work is done. stop: is asked
    often; True ends the search, as Ctrl-C does. Then the packing is the best so far. The same seed
    gives the same packing, unless the time ends the search. Raises PlanError.
    """
    budget = Budget(seconds, stop)
    with budget.interruptible():
        check_problem(problem)
        if not len(problem.machines):
            return Packing((), 0.0, "There are no machines.", "optimal", budget.elapsed)
        items = make_items(problem)
        check_items(items)
        bound = lower_bound(items.instance, items.dimension_name)
        try:
            hosts, proved = _pack_and_place(items, budget, seed)
        except NotSpreadError:
            hosts, _ = _pack_and_place(make_items(problem, alone=True), budget, seed)
            proved = False
        hosts = add_spare_hosts(problem, hosts, budget)
    return _packing(items, hosts, bound, budget, proved=proved)


def _pack_and_place(items: Items, budget: Budget, seed: int) -> tuple[tuple[PackedHost, ...], bool]:
    """The hosts, and whether it is proved that none are better. Raises PlanError."""
    merged = merge_licensed(items, budget, seed)
    bound = lower_bound(merged.instance, items.dimension_name)
    solution, proved = pack(merged.instance, bound, budget, seed)
    if solution.unplaced:
        _raise_unplaced(merged, solution)
    return place_hosts(merged, solution.fillings), proved


def pack(instance: Instance, bound: Bound, budget: Budget, seed: int) -> tuple[Solution, bool]:
    """A solution on plain arrays, and whether it is proved that none is better."""
    if instance.items <= SEARCHED_ITEMS:
        search = Search(instance, bound, budget, seed)
        return search.run(), search.proved
    return pack_in_pools(instance, budget, seed), False


def _packing(
    items: Items, hosts: tuple[PackedHost, ...], bound: Bound, budget: Budget, *, proved: bool
) -> Packing:
    problem = items.problem
    value = float(len(hosts))
    if not equal_costs(items.instance):
        value = float(sum(problem.shapes[host.shape].cost for host in hosts))
    constraints = problem.constraints
    if problem.spare or problem.spare_racks:
        bound = spare_bound(items, bound)
    elif proved and not constraints.licensed and value > bound.value * (1 + 1e-9):
        # the search has proved more than the bound says
        bound = Bound(value, bound.hosts, "No other assignment of the machines needs less.")
    status: Literal["optimal", "feasible", "interrupted"] = "feasible"
    if value <= bound.value * (1 + 1e-9):
        status = "optimal"
    elif budget.cut:
        status = "interrupted"
    return Packing(hosts, bound.value, bound.reason, status, budget.elapsed)


def _raise_unplaced(items: Items, solution: Solution) -> NoReturn:
    machines = [
        items.problem.machines[machine]
        for item in solution.unplaced
        for machine in items.machines[item]
    ]
    names = ", ".join(repr(name) for name in machines[:5])
    raise PlanError(
        f"No packing of {len(items.problem.machines)} machines on "
        f"{len(solution.fillings)} hosts was found: {len(machines)} have no host, such as {names}",
        hint="allow more hosts or more time, or remove constraints",
    )
