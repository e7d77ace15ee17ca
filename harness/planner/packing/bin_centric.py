"""Bin-centric packing: opens one host at a time, and fills it with the items that suit it best.

The best item leaves the room with the smallest weighted Euclidean norm. That is the dot product of
item and room, less half the square of the item: large items go first, and items that need what the
host has most of. Panigrahy, Talwar, Uyeda, Wieder: Heuristics for Vector Bin Packing, 2011.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from harness.planner.packing.composition import prices
from harness.planner.packing.instance import (
    Filling,
    Floats,
    Instance,
    Integers,
    Mask,
    Solution,
)
from harness.planner.packing.products import Products

CHUNK = 32  # items that are checked at once


class BinCentric:
    """Packs an instance, or parts of it."""

    def __init__(self, instance: Instance, products: Products) -> None:
        self.instance = instance
        self._pairs = products.pairs
        self._starts = 2.0 * products.full - products.squares
        self._squares = products.squares.max(axis=0)
        self._values = instance.sizes @ prices(instance).astype(np.float32)

    def pack(
        self,
        items: Integers,
        opened: Sequence[int],
        left: Integers,
        noise: Floats | None = None,
    ) -> Solution:
        """Pack items that may move on opened hosts and new ones.

        left: of each shape, how many new hosts there may be. noise: (all items,), is added to the
        score in units of the item's square.
        """
        waiting = np.zeros(self.instance.items, bool)
        waiting[items] = True
        shift = np.zeros(self.instance.items) if noise is None else noise * self._squares
        fillings = []
        for number in opened:
            start = self.instance.opened[number]
            filled = self._fill(start.shape, start.items, waiting, shift)
            waiting[list(filled)] = False
            fillings.append(Filling(start.shape, (*start.items, *filled), number))
        left = left.copy()
        while waiting.any():
            seed = int(np.argmax(np.where(waiting, self._squares + shift, -np.inf)))
            usable = np.flatnonzero(self.instance.fits[seed] & (left > 0))
            if not len(usable):
                break
            best = self._best_filling(seed, usable, waiting, shift)
            waiting[list(best.items)] = False
            left[best.shape] -= 1
            fillings.append(best)
        return Solution(tuple(fillings), tuple(np.flatnonzero(waiting).tolist()))

    def _best_filling(self, seed: int, shapes: Integers, waiting: Mask, shift: Floats) -> Filling:
        """The filling with `seed` that packs the highest value for its cost."""
        rest = waiting.copy()
        rest[seed] = False
        fillings = [
            Filling(int(shape), (seed, *self._fill(int(shape), (seed,), rest, shift)))
            for shape in shapes
        ]
        if len(fillings) == 1:
            return fillings[0]
        number = int(waiting.sum())
        costs = self.instance.costs

        def rank(filling: Filling) -> tuple[bool, float]:
            cost = max(float(costs[filling.shape]), 1e-12)
            if len(filling.items) == number:  # the last host: the cheapest is best
                return True, 1 / cost
            return False, float(self._values[list(filling.items)].sum()) / cost

        return max(fillings, key=rank)

    def _fill(
        self, shape: int, present: Sequence[int], waiting: Mask, shift: Floats
    ) -> tuple[int, ...]:
        """The items that are added to those which are present."""
        instance = self.instance
        room = instance.limits[shape] - instance.load(present)
        possible = waiting & instance.fits[:, shape]
        score = self._starts[shape] + shift
        weights: defaultdict[int, int] = defaultdict(int)
        for item in present:
            score -= 2.0 * self._pairs[shape][item]
            self._exclude(item, weights, possible)
        filled: list[int] = []
        while (item := self._next(possible, score, room)) >= 0:
            filled.append(item)
            possible[item] = False
            room -= instance.sizes[item]
            score -= 2.0 * self._pairs[shape][item]
            self._exclude(item, weights, possible)
        return tuple(filled)

    def _next(self, possible: Mask, score: Floats, room: Floats) -> int:
        """The item with the best score that fits, -1 without one. What does not fit is struck."""
        limit = room.astype(np.float32)
        chunk = CHUNK
        candidates = np.flatnonzero(possible)
        while len(candidates):
            scores = score[candidates]
            if len(candidates) > chunk:
                top = np.argpartition(-scores, chunk)[:chunk]
            else:
                top = np.arange(len(candidates))
            top = candidates[top[np.argsort(-scores[top], kind="stable")]]
            fitting = (self.instance.sizes[top] <= limit).all(axis=1)
            possible[top[~fitting]] = False
            if fitting.any():
                return int(top[np.argmax(fitting)])
            candidates = np.flatnonzero(possible)
            chunk *= 4
        return -1

    def _exclude(self, item: int, weights: defaultdict[int, int], possible: Mask) -> None:
        """Strike the items that a group keeps off a host with this item."""
        for number, weight in self.instance.memberships.get(item, ()):
            group = self.instance.groups[number]
            weights[number] += weight
            for other, other_weight in zip(group.items, group.weights, strict=True):
                if weights[number] + other_weight > group.limit:
                    possible[other] = False


def bin_centric(packer: BinCentric) -> Solution:
    """Pack the whole instance."""
    instance = packer.instance
    free = instance.counts.copy()
    for filling in instance.opened:
        free[filling.shape] -= 1
    items = np.flatnonzero(~instance.pinned)
    return packer.pack(items, range(len(instance.opened)), free)
