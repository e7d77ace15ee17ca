"""Balanced assignment: a given set of hosts, all equally loaded in every slot.

The sum over hosts of the squared load, each slot weighted by how scarce it is, is smallest if the
load of each host is its share of the total load at every moment. Then no host has a peak of its
own, and the hosts can be as few as the total needs. Each item goes where it adds least; then pairs
of items swap their hosts, and items move, while that makes the sum smaller. The change of a swap
comes from inner products alone, so its cost does not depend on the number of slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.planner.packing.budget import Budget
from harness.planner.packing.instance import Filling, Floats, Instance, Integers, Mask
from harness.planner.packing.products import Products

Changes = tuple[Integers, Integers, NDArray[np.float32], NDArray[np.float32]]


class Balance:
    """An assignment of all items to hosts, which may be over their capacities.

    host: (items,), of each item. shapes: (hosts,). loads: (hosts, dimensions).
    """

    def __init__(self, products: Products, hosts: Sequence[Filling]) -> None:
        self.instance: Instance = products.instance
        self.hosts = tuple(hosts)
        self.shapes: Integers = np.asarray([host.shape for host in hosts], np.int64)
        self.host: Integers = np.full(self.instance.items, -1, np.int64)
        self.loads: Floats = np.zeros((len(hosts), self.instance.sizes.shape[1]))
        self._pairs = products.pairs
        self._squares = products.squares.astype(np.float32)
        # of each item and host: the inner product of the item and the host's load
        self._near = np.zeros((self.instance.items, len(hosts)), np.float32)
        # of each item and host: how many reasons keep the item off the host
        self._blocks = (~self.instance.fits[:, self.shapes]).astype(np.int16)
        self._blocking = bool(self.instance.groups) or bool(self._blocks.any())
        self._weights = np.zeros((len(self.instance.groups), len(hosts)), np.int64)
        for number, filling in enumerate(hosts):
            for item in filling.items:
                self._add(item, number)
        self._place_all()

    def _place_all(self) -> None:
        squares = self._squares[self.shapes].T  # (items, hosts)
        waiting = np.flatnonzero(self.host < 0)
        for item in waiting[np.argsort(-self._squares[0][waiting], kind="stable")].tolist():
            added = 2 * self._near[item] + squares[item]
            if self._blocking and (free := self._blocks[item] == 0).any():
                added = np.where(free, added, np.inf)
            self._add(item, int(np.argmin(added)))

    def _add(self, item: int, host: int) -> None:
        self.host[item] = host
        self.loads[host] += self.instance.sizes[item]
        self._near[:, host] += self._pairs[self.shapes[host]][item]
        self._block(item, host, 1)

    def remove(self, item: int) -> None:
        """Leave the item without a host."""
        host = int(self.host[item])
        self.host[item] = -1
        self.loads[host] -= self.instance.sizes[item]
        self._near[:, host] -= self._pairs[self.shapes[host]][item]
        self._block(item, host, -1)

    def move(self, item: int, host: int) -> None:
        self.remove(item)
        self._add(item, host)

    def _block(self, item: int, host: int, sign: int) -> None:
        for number, weight in self.instance.memberships.get(item, ()):
            group = self.instance.groups[number]
            members, weights = np.asarray(group.items), np.asarray(group.weights)
            before = self._weights[number, host]
            after = before + sign * weight
            self._weights[number, host] = after
            change = (after + weights > group.limit).astype(np.int16)
            change -= before + weights > group.limit
            self._blocks[members, host] += change

    def blocked(self, item: int) -> bool:
        """Whether a group or a capacity keeps the item off its host."""
        host = int(self.host[item])
        if not self.instance.fits[item, self.shapes[host]]:
            return True
        return any(
            self._weights[number, host] > self.instance.groups[number].limit
            for number, _ in self.instance.memberships.get(item, ())
        )

    def changes(self, host: int) -> Changes:
        """Half the change of the sum for each swap and each move of the host's items.

        Returns the host's items, the others, (items, others) and (items, hosts); infinite where a
        swap or a move is not allowed. Pinned items are in neither.
        """
        movable = ~self.instance.pinned & (self.host >= 0)
        own = np.flatnonzero((self.host == host) & movable)
        others = np.flatnonzero((self.host != host) & movable)
        homes = self.host[others]
        near, shape = self._near[own], int(self.shapes[host])
        leave = near[:, [host]]
        swaps = near[:, homes] - leave
        swaps += (self._near[others, host] - self._near[others, homes])[None, :]
        swaps += self._distances(shape, own, others)
        moves = near - leave
        moves += (self._squares[shape, own][:, None] + self._squares[self.shapes][:, own].T) / 2
        moves[:, host] = np.inf
        if self._blocking:
            swaps[(self._blocks[own][:, homes] > 0) | (self._blocks[others, host] > 0)] = np.inf
            moves[self._blocks[own] > 0] = np.inf
        return own, others, swaps, moves

    def _distances(self, shape: int, own: Integers, others: Integers) -> NDArray[np.float32]:
        """Mean of the squared distance of two items in the measures of their two hosts."""

        def squared(measure: int, columns: Integers) -> NDArray[np.float32]:
            squares = self._squares[measure]
            distance = -2 * self._pairs[measure][np.ix_(own, columns)]
            distance += squares[own][:, None] + squares[columns][None, :]
            return distance

        distances = squared(shape, others)
        if len(self._pairs) > 1:
            homes = self.shapes[self.host[others]]
            for other in np.unique(homes[homes != shape]):
                columns = np.flatnonzero(homes == other)
                distances[:, columns] += squared(int(other), others[columns])
                distances[:, columns] /= 2
        return distances

    def apply(self, item: int, other: int, target: int) -> None:
        """Move the item to the target host, and `other` of that host, if not negative, back."""
        host = int(self.host[item])
        if other >= 0:
            self.remove(other)
        self.move(item, target)
        if other >= 0:
            self._add(other, host)

    def descend(self, budget: Budget) -> None:
        """Swap and move items until no swap or move makes the sum smaller."""
        idle, host = 0, 0
        least = 1e-6 * float(self._squares.mean())
        while idle < len(self.hosts) and not budget.spent():
            own, others, swaps, moves = self.changes(host)
            swap = int(np.argmin(swaps)) if swaps.size else -1
            move = int(np.argmin(moves)) if moves.size else -1
            gain_swap = float(swaps.flat[swap]) if swap >= 0 else np.inf
            gain_move = float(moves.flat[move]) if move >= 0 else np.inf
            idle += 1
            if min(gain_swap, gain_move) < -least:
                idle = 0
                if gain_swap <= gain_move:
                    item, other = own[swap // len(others)], int(others[swap % len(others)])
                    self.apply(int(item), other, int(self.host[other]))
                else:
                    item = own[move // len(self.hosts)]
                    self.apply(int(item), -1, move % len(self.hosts))
            host = (host + 1) % len(self.hosts)

    def overloads(self, hosts: Sequence[int] | Integers, loads: Floats) -> Floats:
        """(...): by how much loads are over the capacity of the hosts, summed over dimensions."""
        limits = self.instance.limits[self.shapes[np.asarray(hosts)]]
        excess: Floats = np.maximum(loads - limits, 0.0).sum(axis=-1)
        return excess

    def members(self, host: int) -> Integers:
        """The items of the host that may move."""
        return np.flatnonzero((self.host == host) & ~self.instance.pinned)

    def free(self, item: int) -> Mask:
        """(hosts,): where groups and the item's own size allow it."""
        allowed: Mask = self._blocks[item] == 0
        return allowed
