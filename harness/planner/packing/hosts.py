"""Hosts that are being filled: what fits where, under capacities and groups."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harness.planner.packing.instance import Filling, Floats, Instance, Integers


class Hosts:
    """The mutable state of a packing. It starts with the opened hosts of the instance.

    shape, items, opened: of each host. left: of each shape, hosts that may still be opened.
    """

    def __init__(self, instance: Instance, fillings: tuple[Filling, ...] | None = None) -> None:
        self.instance = instance
        self.shape: list[int] = []
        self.items: list[list[int]] = []
        self.opened: list[int] = []
        self.left: Integers = instance.counts.copy()
        self._room = np.empty((16, instance.sizes.shape[1]))
        # of each group, the weight on each host that has any
        self._weights: list[dict[int, int]] = [{} for _ in instance.groups]
        if fillings is None:
            fillings = tuple(replace(host, opened=k) for k, host in enumerate(instance.opened))
        for filling in fillings:
            host = self.open(filling.shape, filling.opened)
            for item in filling.items:
                self.place(item, host)

    def __len__(self) -> int:
        return len(self.shape)

    @property
    def room(self) -> Floats:
        """(hosts, dimensions): what each host has left."""
        return self._room[: len(self.shape)]

    def open(self, shape: int, opened: int = -1) -> int:
        """Add an empty host. Returns its index."""
        host = len(self.shape)
        if host == len(self._room):
            self._room = np.concatenate([self._room, np.empty_like(self._room)])
        self._room[host] = self.instance.limits[shape]
        self.shape.append(shape)
        self.items.append([])
        self.opened.append(opened)
        self.left[shape] -= 1
        return host

    def place(self, item: int, host: int) -> None:
        self._room[host] -= self.instance.sizes[item]
        self.items[host].append(item)
        for group, weight in self.instance.memberships.get(item, ()):
            weights = self._weights[group]
            weights[host] = weights.get(host, 0) + weight

    def candidates(self, item: int) -> Integers:
        """The hosts on which the item fits."""
        fitting = (self.room >= self.instance.sizes[item]).all(axis=1)
        for group, weight in self.instance.memberships.get(item, ()):
            limit = self.instance.groups[group].limit - weight
            for host, present in self._weights[group].items():
                if present > limit:
                    fitting[host] = False
        return np.flatnonzero(fitting)

    def new_host(self, item: int) -> int:
        """Open a host of the cheapest shape on which the item fits; -1 if there is none."""
        usable = self.instance.fits[item] & (self.left > 0)
        if not usable.any():
            return -1
        return self.open(int(np.argmin(np.where(usable, self.instance.costs, np.inf))))

    def fillings(self) -> tuple[Filling, ...]:
        """All hosts that have an item or were opened by the instance."""
        return tuple(
            Filling(shape, tuple(items), opened)
            for shape, items, opened in zip(self.shape, self.items, self.opened, strict=True)
            if items or opened >= 0
        )
