"""Set covering: the best choice among fillings of hosts that were found, by integer programming."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csc_array

from harness.planner.packing.instance import UNBOUNDED, Filling, Instance, Solution


def cover(
    instance: Instance, fillings: Sequence[Filling], seconds: float, nodes: int = 2000
) -> tuple[Solution | None, bool]:
    """The cheapest set of fillings that has each item, and whether it is proved to be that.

    An item that no filling has, or for which there are too few hosts, is unplaced. An item in two
    fillings is taken out of one: a part of a filling is a filling. nodes: of the search tree, so
    that the effort is the same on any machine.
    """
    if seconds <= 0 or not fillings:
        return None, False
    shapes, columns = len(instance.costs), len(fillings)
    # rows: items, opened hosts, shapes; columns: fillings, then one for each unplaced item
    rows = [
        [*filling.items, instance.items + filling.opened] if filling.opened >= 0 else filling.items
        for filling in fillings
    ]
    first_shape = instance.items + len(instance.opened)
    row = [
        number
        for column, f in zip(rows, fillings, strict=True)
        for number in (*column, first_shape + f.shape)
    ]
    starts = np.cumsum([0, *(len(column) + 1 for column in rows)])
    row += range(instance.items)
    starts = np.concatenate([starts, starts[-1] + np.arange(1, instance.items + 1)])
    matrix = csc_array(
        (np.ones(len(row)), np.asarray(row), starts),
        shape=(first_shape + shapes, columns + instance.items),
    )
    # a part of a filling is a filling only if no size is negative
    most = np.inf if instance.sizes.min(initial=0.0) >= 0 else 1.0
    costs = instance.costs[[filling.shape for filling in fillings]]
    penalty = 2 * float(instance.costs.max()) * (instance.items + 1)
    result = milp(
        np.concatenate([costs, np.full(instance.items, penalty)]),
        constraints=LinearConstraint(
            matrix,
            np.concatenate([np.ones(first_shape), np.zeros(shapes)]),
            np.concatenate(
                [
                    np.full(first_shape, most),
                    np.where(instance.counts >= UNBOUNDED, np.inf, instance.counts),
                ]
            ),
        ),
        bounds=Bounds(0, 1),
        integrality=np.ones(columns + instance.items, np.int64),
        options={"time_limit": seconds, "node_limit": nodes, "mip_rel_gap": 0.0},
    )
    if result.x is None:
        return None, False
    chosen = [fillings[k] for k in np.flatnonzero(result.x[:columns] > 0.5).tolist()]
    return _without_duplicates(instance, chosen), result.status == 0


def greedy_cover(instance: Instance, fillings: Sequence[Filling]) -> Solution:
    """Disjoint fillings: for the item with the fewest ones left, the one that takes fewest others.

    For one shape without opened hosts. Many items may be unplaced.
    """
    members = np.zeros((len(fillings), instance.items), bool)
    for column, filling in enumerate(fillings):
        members[column, list(filling.items)] = True
    free = members.sum(axis=1) > 1
    chosen = []
    while free.any():
        choices = members[free].sum(axis=0)
        rarest = int(np.argmin(np.where(choices > 0, choices, len(fillings) + 1)))
        columns = np.flatnonzero(free & members[:, rarest])
        column = int(columns[np.argmin(members[columns] @ choices)])
        chosen.append(fillings[column])
        free &= ~(members[:, members[column]]).any(axis=1)
    return _without_duplicates(instance, chosen)


def _without_duplicates(instance: Instance, chosen: Sequence[Filling]) -> Solution:
    placed = instance.pinned.copy()
    opened: set[int] = set()
    fillings = []
    for filling in sorted(chosen, key=lambda one: -len(one.items)):
        number = filling.opened if filling.opened not in opened else -1
        opened.add(number)
        fixed = instance.opened[number].items if number >= 0 else ()
        items = [item for item in filling.items if not placed[item]]
        placed[items] = True
        if items or number >= 0:
            fillings.append(Filling(filling.shape, (*fixed, *items), number))
    return Solution(tuple(fillings), tuple(np.flatnonzero(~placed).tolist()))
