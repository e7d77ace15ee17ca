"""Packs a hundred thousand items: pools of about a thousand, each a balanced assignment.

The hosts are chosen first, for the total demand and a little slack, and dealt to the pools. Items
are dealt so that each pool's demand is its hosts' share of the total at every moment. What a pool
cannot place goes to the next pool. Cost: items x pools for dealing, and a constant for each pool.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.planner.packing.balance import Balance
from harness.planner.packing.budget import Budget
from harness.planner.packing.composition import composition, hosts_of
from harness.planner.packing.first_fit import first_fit
from harness.planner.packing.hosts import Hosts
from harness.planner.packing.instance import (
    UNBOUNDED,
    Filling,
    Instance,
    Integers,
    Solution,
    whole,
)
from harness.planner.packing.products import Products
from harness.planner.packing.repair import repair, without_overload

POOL_ITEMS = 1000
LEAST_HOSTS = 8  # of a pool
SLACK = 0.004  # of each host, for what cannot be balanced
POWER = 10.0
FEATURES = 64  # block sums of the dimensions, by which items are dealt
REPAIR_STEPS = 300


def pack_in_pools(instance: Instance, budget: Budget, seed: int) -> Solution:
    """Pack all items. Those that no pool can place get more hosts, if there may be more."""
    counts = composition(instance, slack=SLACK)
    if counts is None:
        counts = composition(instance)
    if counts is None:
        counts = np.minimum(instance.counts, instance.items)
    hosts = hosts_of(instance, counts)
    number = max(1, min(round(instance.items / POOL_ITEMS), len(hosts) // LEAST_HOSTS))
    pool_hosts = [hosts[pool::number] for pool in range(number)]
    pool_of = deal(instance, pool_hosts)
    rng = np.random.default_rng(seed)
    fillings: list[Filling] = []
    carried = np.zeros(0, np.int64)
    for pool, own in enumerate(pool_hosts):
        items = np.concatenate([np.flatnonzero(pool_of == pool), carried])
        opened = [host.opened for host in own if host.opened >= 0]
        shapes = np.bincount([host.shape for host in own], minlength=len(instance.costs))
        if budget.spent():  # more hosts, rather than a long search for places
            shapes = np.where(instance.counts >= UNBOUNDED, UNBOUNDED, shapes)
        part = instance.part(items, opened, shapes.astype(np.int64))
        solution = first_fit(part) if budget.cut else _pack_pool(part, budget, rng)
        fillings += whole(solution.fillings, items, opened)
        carried = items[list(solution.unplaced)]
    solution = Solution(tuple(fillings), tuple(carried.tolist()))
    if not budget.cut:
        solution = insert(instance, solution)
    return first_fit(instance, solution) if solution.unplaced else solution


def _pack_pool(part: Instance, budget: Budget, rng: np.random.Generator) -> Solution:
    balance = Balance(Products(part, POWER), hosts_of(part, part.counts))
    balance.descend(budget)
    repair(balance, budget, rng, REPAIR_STEPS)
    return insert(part, without_overload(balance))


def insert(instance: Instance, solution: Solution) -> Solution:
    """Place unplaced items on the hosts there are, the largest first, each where it fits best."""
    hosts = Hosts(instance, solution.fillings)
    weights = instance.criticality.astype(np.float32)
    waiting = np.asarray(solution.unplaced, np.int64)
    unplaced = []
    for item in waiting[np.argsort(-(instance.sizes[waiting] @ weights), kind="stable")].tolist():
        candidates = hosts.candidates(item)
        if len(candidates):
            rooms = np.minimum(hosts.room[candidates], 1.0) @ weights
            hosts.place(item, int(candidates[np.argmin(rooms)]))
        else:
            unplaced.append(item)
    return Solution(hosts.fillings(), tuple(unplaced))


def deal(instance: Instance, pool_hosts: list[list[Filling]]) -> Integers:
    """(items,): the pool of each, such that pools are loaded alike by their hosts' share."""
    number = len(pool_hosts)
    capacities = np.where(np.isinf(instance.capacities), 1.0, instance.capacities)
    share = np.asarray(
        [sum(float(capacities[h.shape].sum()) for h in hosts) for hosts in pool_hosts]
    )
    share /= share.mean()
    features = _features(instance)
    loads = np.zeros((number, features.shape[1]))
    shapes = np.zeros((number, len(instance.costs)), bool)
    pool_of = np.full(instance.items, -1, np.int64)
    for pool, hosts in enumerate(pool_hosts):
        for host in hosts:
            shapes[pool, host.shape] = True
            pool_of[list(host.items)] = pool
            loads[pool] += features[list(host.items)].sum(axis=0)
    limits = [-(-sum(group.weights) // number) for group in instance.groups]
    members = np.zeros((len(instance.groups), number), np.int64)
    squares = (features.astype(np.float64) ** 2).sum(axis=1)
    for item in np.argsort(-squares, kind="stable").tolist():
        if pool_of[item] >= 0:
            continue
        added = (2 * (loads @ features[item]) + squares[item]) / share
        added[~(shapes & instance.fits[item]).any(axis=1)] = np.inf
        groups = instance.memberships.get(item, ())
        for group, weight in groups:
            added[members[group] + weight > max(limits[group], weight)] += 1e9
        pool = int(np.argmin(added))
        pool_of[item] = pool
        loads[pool] += features[item]
        for group, weight in groups:
            members[group, pool] += weight
    return pool_of


def _features(instance: Instance) -> NDArray[np.float32]:
    """(items, features): sums of blocks of dimensions, weighted by how scarce they are."""
    dimensions = instance.sizes.shape[1]
    block = np.arange(dimensions) * min(FEATURES, dimensions) // dimensions
    weights = np.zeros((dimensions, int(block[-1]) + 1), np.float32)
    weights[np.arange(dimensions), block] = instance.criticality ** (POWER / 2)
    return instance.sizes @ weights
