"""Slots: sets of moments, so that a long trace becomes a small packing problem.

Demand in a slot is the highest of its moments, for each machine. The sum of such maxima is more
than the machines need at any moment. So slots are single samples where all machines together need
much, since hosts are full there, and hours or hours of the week elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.planner.samples import HOURS, Grid

_BUSY = 0.8  # of the highest need: below it, a coarse slot limits no host


@dataclass(frozen=True)
class Slots:
    """A partition of the moments of a grid. slot_of: for each moment the number of its slot."""

    slot_of: NDArray[np.int64]

    @property
    def count(self) -> int:
        return int(self.slot_of.max()) + 1

    @property
    def single(self) -> NDArray[np.bool_]:
        """For each slot whether it is one moment, so that sums over machines are exact."""
        return np.asarray(np.bincount(self.slot_of) == 1)

    def maxima(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The highest value of each slot: (machines, moments) to (machines, slots)."""
        if self.count == len(self.slot_of):
            return values
        order = np.argsort(self.slot_of, kind="stable")
        starts = np.searchsorted(self.slot_of[order], np.arange(self.count))
        return np.asarray(np.maximum.reduceat(values[:, order], starts, axis=1))


def samples(grid: Grid) -> Slots:
    """Each moment is a slot."""
    return Slots(np.arange(grid.count))


def whole(grid: Grid) -> Slots:
    """All moments are one slot."""
    return Slots(np.zeros(grid.count, np.int64))


def hours(grid: Grid, most: int) -> Slots:
    """Hours of the trace if they are not more than `most`, else hours of the week."""
    slots = grid.hour
    if slots[-1] >= max(most, HOURS):
        slots = grid.hour_of_week
    return Slots(np.unique(slots, return_inverse=True)[1])


def refined(
    slots: Slots, coarse: NDArray[np.float64], fine: NDArray[np.float64], most: int
) -> Slots:
    """The same slots, with the busiest ones split into moments.

    coarse: for each slot what all machines need by their maxima. fine: for each moment what they
    need. most: slots of the result; the busiest slot is split in any case.
    """
    sizes = np.bincount(slots.slot_of)
    split = np.zeros(len(sizes), np.bool_)
    room = most - len(sizes)
    for slot in np.argsort(-coarse, kind="stable"):
        room -= int(sizes[slot]) - 1
        if split.any() and (room < 0 or coarse[slot] < _BUSY * fine.max(initial=0.0)):
            break
        split[slot] = True
    moments = np.arange(len(slots.slot_of)) + len(sizes)
    labels = np.where(split[slots.slot_of], moments, slots.slot_of)
    return Slots(np.unique(labels, return_inverse=True)[1])
