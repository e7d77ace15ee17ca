"""Repairs a balanced assignment: swaps and moves until no host is over its capacity in any slot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.planner.packing.balance import Balance
from harness.planner.packing.budget import Budget
from harness.planner.packing.instance import Filling, Floats, Solution

CHUNK, CHUNKS = 256, 4  # swaps and moves that are evaluated exactly, the most balanced ones first
KICK = 50  # a kick is one of so many swaps that disturb the balance least


@dataclass
class Step:
    """A move, or a swap with `other`, and the overload of both hosts after it."""

    item: int
    other: int
    target: int
    change: float


def repair(balance: Balance, budget: Budget, rng: np.random.Generator, steps: int) -> bool:
    """Remove the overload of all hosts. Returns whether that was possible in so many steps."""
    stuck: set[int] = set()
    over = balance.overloads(range(len(balance.hosts)), balance.loads)
    for _ in range(steps):
        if not over.any() or budget.spent():
            break
        host = int(np.argmax(np.where(np.isin(np.arange(len(over)), list(stuck)), 0.0, over)))
        if over[host] > 0 and host not in stuck:
            step = _best_step(balance, host, over)
            if step is None:
                stuck.add(host)
                continue
        else:
            stuck.clear()
            host = int(rng.choice(np.flatnonzero(over)))
            step = _kick(balance, host, rng)
            if step is None:
                break
        balance.apply(step.item, step.other, step.target)
        pair = [host, step.target]
        over[pair] = balance.overloads(pair, balance.loads[pair])
        stuck.difference_update(pair)
    return not over.any()


def _best_step(balance: Balance, host: int, over: Floats) -> Step | None:
    """The step that lowers the overload most, of those that disturb the balance least."""
    own, others, swaps, moves = balance.changes(host)
    sizes = balance.instance.sizes
    exceeded = balance.loads[host] > balance.instance.limits[balance.shapes[host]]
    relief = sizes[:, exceeded].sum(axis=1)
    swaps[relief[own][:, None] <= relief[others][None, :]] = np.inf
    values = np.concatenate([swaps.ravel(), moves.ravel()])
    count = min(CHUNK * CHUNKS, int(np.isfinite(values).sum()))
    if not count:
        return None
    order = np.argpartition(values, count - 1)[:count]
    order = order[np.argsort(values[order], kind="stable")]
    width, hosts = max(len(others), 1), len(balance.hosts)
    for start in range(0, count, CHUNK):
        chosen = order[start : start + CHUNK]
        is_swap = chosen < swaps.size
        rest = np.maximum(chosen - swaps.size, 0)
        items = own[np.where(is_swap, chosen // width, rest // hosts)]
        partners = np.full(len(chosen), -1)
        partners[is_swap] = others[chosen[is_swap] % width]
        targets = np.where(is_swap, balance.host[partners], rest % hosts)
        shift = sizes[items].astype(np.float64)
        shift[is_swap] -= sizes[partners[is_swap]]
        change = balance.overloads([host], balance.loads[host] - shift)
        change += balance.overloads(targets, balance.loads[targets] + shift)
        change -= over[host] + over[targets]
        best = int(np.argmin(change))
        if change[best] < -1e-9 * max(1.0, over[host]):
            return Step(
                int(items[best]), int(partners[best]), int(targets[best]), float(change[best])
            )
    return None


def _kick(balance: Balance, host: int, rng: np.random.Generator) -> Step | None:
    """A random swap out of a local minimum."""
    own, others, swaps, _ = balance.changes(host)
    count = min(KICK, int(np.isfinite(swaps).sum()))
    if not count:
        return None
    top = np.argpartition(swaps.ravel(), count - 1)[:count]
    chosen = int(rng.choice(top))
    other = int(others[chosen % len(others)])
    return Step(int(own[chosen // len(others)]), other, int(balance.host[other]), 0.0)


def without_overload(balance: Balance) -> Solution:
    """Unplace items of overloaded hosts, those that relieve most for their size."""
    instance = balance.instance
    volume = instance.sizes @ instance.criticality.astype(np.float32) + 1e-9
    unplaced = []
    for host in range(len(balance.hosts)):
        for item in balance.members(host).tolist():
            if balance.blocked(item):
                balance.remove(item)
                unplaced.append(item)
        limit = instance.limits[balance.shapes[host]]
        while (balance.loads[host] > limit).any():
            members = balance.members(host)
            rest = balance.overloads([host], balance.loads[host] - instance.sizes[members])
            relief = balance.overloads([host], balance.loads[[host]])[0] - rest
            item = int(members[np.argmax(relief / volume[members])])
            balance.remove(item)
            unplaced.append(item)
    fillings = []
    for number, filling in enumerate(balance.hosts):
        items = np.flatnonzero(balance.host == number)
        if len(items) or filling.opened >= 0:
            fillings.append(Filling(filling.shape, tuple(items.tolist()), filling.opened))
    return Solution(tuple(fillings), tuple(unplaced))
