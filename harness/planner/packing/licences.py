"""Licences by host: the machines of a licence run on as few hosts as possible.

Each licence's machines are packed alone first. What shares a host then becomes one item, so that
the rest of the search cannot spread it over more hosts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harness.planner.packing.bounds import lower_bound
from harness.planner.packing.budget import Budget
from harness.planner.packing.first_fit import first_fit
from harness.planner.packing.instance import Instance
from harness.planner.packing.items import Items
from harness.planner.packing.search import Search

SEARCHED_ITEMS = 1500  # more are packed by first-fit decreasing
SECONDS = 10.0  # for all licences


def merge_licensed(items: Items, budget: Budget, seed: int) -> Items:
    """Items that hold the machines of a licence on one host."""
    own = Budget(min(SECONDS, budget.left / 4), lambda: not budget.left)
    shared: list[list[int]] = []
    for group in items.problem.constraints.licensed:
        licensed = set(group)
        chosen = _items_of(items, licensed)
        if any(set(chosen).intersection(others) for others in shared):
            # a machine with two licences: its host is known now
            items, shared = items.merged(shared), []
            chosen = _items_of(items, licensed)
        if len(chosen) > 1:
            shared += _hosts(items.instance, chosen, own, seed)
    return items.merged(shared)


def _items_of(items: Items, machines: set[int]) -> list[int]:
    return [k for k, members in enumerate(items.machines) if machines.intersection(members)]


def _hosts(instance: Instance, chosen: list[int], budget: Budget, seed: int) -> list[list[int]]:
    """Items that are to share a host, for the fewest hosts. Pinned ones stay where they are."""
    opened = [k for k, host in enumerate(instance.opened) if set(host.items).intersection(chosen)]
    pinned = {item for k in opened for item in instance.opened[k].items}
    places = np.asarray(sorted(pinned.union(chosen)), np.int64)
    part = instance.part(places, opened, instance.counts)
    part = replace(part, costs=np.ones(len(part.costs)))  # the number of hosts counts
    if part.items > SEARCHED_ITEMS:
        solution = first_fit(part)
    else:
        bound = lower_bound(part, str)
        search = Search(part, bound, budget, seed)
        search.greedy()
        search.balanced()
        solution = search.best
    wanted = set(chosen)
    groups = [places[list(filling.items)].tolist() for filling in solution.fillings]
    return [[item for item in group if item in wanted] for group in groups]
