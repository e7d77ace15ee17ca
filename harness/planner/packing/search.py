"""The search for a packing of up to about a thousand items: the strategies, one after another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.planner.packing.balance import Balance
from harness.planner.packing.bin_centric import BinCentric, bin_centric
from harness.planner.packing.bounds import Bound
from harness.planner.packing.budget import Budget
from harness.planner.packing.composition import composition, hosts_of
from harness.planner.packing.covering import cover, greedy_cover
from harness.planner.packing.enumeration import all_fillings, tight_fillings
from harness.planner.packing.exact import assign
from harness.planner.packing.first_fit import first_fit
from harness.planner.packing.instance import Filling, Instance, Integers, Solution
from harness.planner.packing.products import Products
from harness.planner.packing.repair import repair, without_overload
from harness.planner.packing.ruin_recreate import ruin_and_recreate

POWERS = (4.0, 10.0, 1.0)  # of the criticality, in the order of their success
SLACKS = (0.0, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3)
EXACT_ITEMS = 60  # up to so many items the optimum is proved
PAIR_SIZES = 8_000_000  # of all pairs of items in all dimensions, so that they can be listed
FEW_ITEMS = 5.0  # on a host; fillings can then be listed
MOST_FILLINGS = 20_000
REPAIR_STEPS = 600
ROUNDS, COVERINGS = 400, 4
COVER_SECONDS = 3.0  # of an integer program; most end earlier
COVER_NODES = 200
COVERED_ITEMS, COVERED_FILLINGS = 400, 4000  # in the improvement


class Search:
    """Keeps the best solution and all fillings that were found.

    bound: a lower bound of the cost. A search that reaches it is done.
    """

    def __init__(self, instance: Instance, bound: Bound, budget: Budget, seed: int) -> None:
        self.instance = instance
        self.bound = bound
        self.budget = budget
        self.rng = np.random.default_rng(seed)
        self.best = first_fit(instance)
        self.proved = False
        self._fillings: dict[tuple[int, int, tuple[int, ...]], Filling] = {}
        self._products: dict[float, Products] = {}
        self.found(self.best.fillings)

    @property
    def lowest_cost(self) -> float:
        scale = 1.0
        if (self.instance.costs == self.instance.costs[0]).all():
            scale = float(self.instance.costs[0])
        return self.bound.value * scale * (1 + 1e-9)

    @property
    def done(self) -> bool:
        """Whether the best solution is optimal, or the time is over."""
        if self.instance.rank(self.best) <= (0, self.lowest_cost):
            self.proved = True
        return self.proved or self.budget.spent()

    def offer(self, solution: Solution) -> bool:
        """Keep the solution if it is the best. Returns whether it is."""
        self.found(solution.fillings)
        if self.instance.rank(solution) >= self.instance.rank(self.best):
            return False
        self.best = solution
        return True

    def found(self, fillings: Sequence[Filling]) -> None:
        """Remember fillings for the set covering; the oldest are forgotten."""
        for filling in fillings:
            key = (filling.shape, filling.opened, tuple(sorted(filling.items)))
            self._fillings.pop(key, None)
            self._fillings[key] = filling
        while len(self._fillings) > MOST_FILLINGS:
            del self._fillings[next(iter(self._fillings))]

    def products(self, power: float) -> Products:
        if power not in self._products:
            self._products[power] = Products(self.instance, power)
        return self._products[power]

    def run(self) -> Solution:
        """All strategies, until the optimum is proved or the work is done."""
        for strategy in (
            self.greedy,
            self.list_tight_fillings,
            self.balanced,
            self.exact,
            self.improve,
        ):
            if self.done:
                break
            strategy()
        return self.best

    def greedy(self) -> None:
        for power in POWERS:
            if not self.done:
                self.offer(bin_centric(BinCentric(self.instance, self.products(power))))

    def _compositions(self) -> list[Integers]:
        """Numbers of hosts that are cheaper than the best solution, from the cheapest up."""
        costs, found = self.instance.costs, {}
        least = self.bound.hosts
        for extra in SLACKS if len(costs) > 1 else range(len(self.best.fillings)):
            counts = (
                composition(self.instance, slack=float(extra), hosts=least)
                if len(costs) > 1
                else composition(self.instance, hosts=least + int(extra))
            )
            if counts is None:
                break
            if self.best.unplaced or costs @ counts < self.instance.cost(self.best) - 1e-9:
                found[tuple(counts.tolist())] = counts
            elif found:
                break
        return sorted(found.values(), key=lambda counts: float(costs @ counts))

    def balanced(self) -> None:
        """Find the cheapest composition that a balanced assignment manages with."""
        candidates = self._compositions()
        low, high, step = 0, len(candidates), 0
        while low < high and not self.done:
            # in steps that grow, then by bisection: the cheapest ones mostly succeed
            middle = min(low + step, (low + high) // 2)
            if self._balance(candidates[middle]):
                high = middle
            else:
                low, step = middle + 1, 2 * step + 1

    def _balance(self, counts: Integers) -> bool:
        for power in POWERS[:2]:
            balance = Balance(self.products(power), hosts_of(self.instance, counts))
            balance.descend(self.budget)
            repair(balance, self.budget, self.rng, REPAIR_STEPS)
            solution = without_overload(balance)
            if solution.unplaced:
                solution = first_fit(self.instance, solution)
            self.offer(solution)
            if self.instance.rank(solution) <= (0, float(self.instance.costs @ counts) + 1e-9):
                return True
            if self.budget.spent():
                break
        return False

    @property
    def _few_items_a_host(self) -> bool:
        return self.instance.items < FEW_ITEMS * max(1, self.bound.hosts)

    def list_tight_fillings(self) -> None:
        """Choose among fillings that waste little, for problems of few items on each host."""
        instance = self.instance
        plain = len(instance.costs) == 1 and not instance.opened
        if not plain or not self._few_items_a_host:
            return
        if instance.items**2 * instance.sizes.shape[1] > PAIR_SIZES:
            return
        for hosts in range(self.bound.hosts, len(self.best.fillings)):
            if self.done:
                return
            listed = tight_fillings(instance, hosts, MOST_FILLINGS)
            self.found(listed)
            for solution in (
                greedy_cover(instance, listed),
                cover(instance, listed, min(self.budget.left, COVER_SECONDS))[0],
            ):
                if solution is not None:
                    self.offer(first_fit(instance, solution) if solution.unplaced else solution)
            if len(listed) >= MOST_FILLINGS:
                return

    def exact(self) -> None:
        """Prove the optimum of a small problem."""
        if self.instance.items > EXACT_ITEMS:
            return
        if self._few_items_a_host:
            listed = all_fillings(self.instance, MOST_FILLINGS)
            if listed is not None:
                solution, proved = cover(self.instance, listed, self.budget.left, 1_000_000)
                if solution is not None:
                    self.offer(solution)
                self.proved = proved
                return
        solution, proved = assign(self.instance, self.best, self.lowest_cost, self.budget)
        if solution is not None:
            self.offer(solution)
        self.proved = proved

    def improve(self) -> None:
        """Ruin and recreate, then the best choice among all fillings, and so on."""
        packer = BinCentric(self.instance, self.products(POWERS[0]))
        for _ in range(COVERINGS):
            if self.done:
                return
            improved = ruin_and_recreate(
                packer,
                self.best,
                self.budget,
                self.rng,
                rounds=ROUNDS,
                target=self.lowest_cost,
                found=self.found,
            )
            self.offer(improved)
            if self.instance.items <= COVERED_ITEMS and not self.done:
                newest = list(self._fillings.values())[-COVERED_FILLINGS:]
                seconds = min(self.budget.left, COVER_SECONDS)
                solution, _ = cover(self.instance, newest, seconds, COVER_NODES)
                if solution is not None:
                    self.offer(solution)
