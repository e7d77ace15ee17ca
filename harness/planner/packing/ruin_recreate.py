"""Ruin and recreate: empties the least loaded host and a few others, and packs their items anew.

Schrimpf et al.: Record Breaking Optimization Results Using the Ruin and Recreate Principle, 2000.
A change that costs no more is kept if it concentrates the load: full hosts get fuller, and the
least loaded host emptier, until it is not needed any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from harness.planner.packing.bin_centric import BinCentric
from harness.planner.packing.budget import Budget
from harness.planner.packing.instance import Filling, Floats, Instance, Solution

NOISE = 0.3  # standard deviation, in units of an item's square
MOST_HOSTS = 6  # that are emptied at once


def ruin_and_recreate(
    packer: BinCentric,
    start: Solution,
    budget: Budget,
    rng: np.random.Generator,
    *,
    rounds: int,
    target: float,
    found: Callable[[Sequence[Filling]], None] = lambda fillings: None,
) -> Solution:
    """Improve a solution in so many rounds, or until it costs no more than `target`.

    found: is called with the fillings of each round.
    """
    instance = packer.instance
    values = np.asarray(instance.sizes @ instance.criticality, np.float64)
    current, best = start, start
    for number in range(rounds):
        if instance.rank(best) <= (0, target) or budget.spent():
            break
        threshold = 0.02 * (1 - number / rounds)
        current = _round(packer, current, values, rng, threshold=threshold, found=found)
        if instance.rank(current) < instance.rank(best):
            best = current
    return best


def _round(
    packer: BinCentric,
    current: Solution,
    values: Floats,
    rng: np.random.Generator,
    *,
    threshold: float,
    found: Callable[[Sequence[Filling]], None],
) -> Solution:
    instance = packer.instance
    fullness = _fullness(instance, current.fillings, values)
    count = min(int(rng.integers(2, MOST_HOSTS + 1)), len(fullness))
    # the least loaded first; chance decides who else, so that no host is left out for ever
    order = np.argsort(fullness + rng.exponential(0.2, len(fullness)))[:count]
    order[0] = np.argmin(fullness)
    ruined = set(order.tolist())
    kept = tuple(f for k, f in enumerate(current.fillings) if k not in ruined)
    items = [i for k in ruined for i in current.fillings[k].items if not instance.pinned[i]]
    items += current.unplaced
    left = instance.counts.copy()
    for filling in kept:
        left[filling.shape] -= 1
    opened = [current.fillings[k].opened for k in ruined if current.fillings[k].opened >= 0]
    for host in opened:
        left[instance.opened[host].shape] -= 1
    noise = rng.normal(0.0, NOISE, instance.items)
    part = packer.pack(np.asarray(items, np.int64), opened, left, noise)
    found(part.fillings)
    new = Solution((*kept, *part.fillings), part.unplaced)
    if instance.rank(new) != instance.rank(current):
        return new if instance.rank(new) < instance.rank(current) else current
    before = float((fullness[list(ruined)] ** 2).sum())
    after = float((_fullness(instance, part.fillings, values) ** 2).sum())
    return new if after >= before * (1 - threshold) else current


def _fullness(instance: Instance, fillings: Sequence[Filling], values: Floats) -> Floats:
    """(fillings,): the weighted share of its capacity that each host uses."""
    capacities = np.where(np.isinf(instance.capacities), 0.0, instance.capacities)
    weighted = np.maximum(capacities @ instance.criticality, np.finfo(float).tiny)
    return np.asarray(
        [float(values[list(f.items)].sum()) / weighted[f.shape] for f in fillings], np.float64
    )
