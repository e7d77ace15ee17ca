"""Inner products of all pairs of items. With them a move is evaluated without looking at slots."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from harness.planner.packing.instance import Floats, Instance, Sizes


class Products:
    """Inner products in the measure of each shape: a dimension counts by weight / capacity.

    power: of the criticality that weights a dimension. A high power looks at the scarcest only.
    Memory and time grow with the square of the number of items.
    """

    def __init__(self, instance: Instance, power: float) -> None:
        self.instance = instance
        weights = instance.criticality**power
        self._measures = weights * np.minimum(instance.inverse, 1e6)

    @cached_property
    def pairs(self) -> tuple[NDArray[np.float32], ...]:
        """Of each shape (items, items)."""
        sizes = self.instance.sizes
        return tuple(self._weighted(shape) @ sizes.T for shape in range(len(self._measures)))

    @cached_property
    def squares(self) -> Floats:
        """(shapes, items): the product of each item with itself."""
        return np.stack([np.diag(pairs) for pairs in self.pairs]).astype(np.float64)

    @cached_property
    def full(self) -> Floats:
        """(shapes, items): the product of each item with an empty host's capacity."""
        capacities = np.where(np.isinf(self.instance.capacities), 1.0, self.instance.capacities)
        return np.stack(
            [
                self._weighted(shape) @ capacity.astype(np.float32)
                for shape, capacity in enumerate(capacities)
            ]
        ).astype(np.float64)

    def _weighted(self, shape: int) -> Sizes:
        return np.asarray(self.instance.sizes * self._measures[shape], np.float32)
