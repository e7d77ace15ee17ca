"""The order of measurements on several targets: A B, B A, A B, ..., or drawn by a seed.

What drifts with time (heat, load, caches) then affects all targets alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import pytest

T = TypeVar("T")
ItemT = TypeVar("ItemT", bound="pytest.Item")


def alternate(targets: Sequence[T], turn: int) -> list[T]:
    """The order of the targets in a turn: as given in even turns, reversed in odd ones."""
    return list(targets) if turn % 2 == 0 else list(targets)[::-1]


def interleave(
    items: Sequence[ItemT], label_of: Callable[[ItemT], str], seed: int | None = None
) -> list[ItemT]:
    """Each test on all hypervisors before the next test. Without a seed the hypervisors alternate;
    with one each turn's order is drawn.

    label_of: a test's hypervisor, "" for none. Other tests keep their places; a test comes where
    its first twin was.
    """
    twins: dict[tuple[object, ...], list[ItemT]] = {}
    for item in items:
        twins.setdefault(_key_without_hypervisor(item, label_of(item)), []).append(item)
    turns = count()
    generator = None if seed is None else random.Random(seed)  # noqa: S311 - must be repeatable
    ordered: list[ItemT] = []
    for group in twins.values():
        if generator is not None:
            generator.shuffle(group)
            ordered += group
        elif len(group) > 1:
            ordered += alternate(group, next(turns))
        else:
            ordered += group
    return ordered


def _key_without_hypervisor(item: pytest.Item, label: str) -> tuple[object, ...]:
    """Equal for a test's twins, which differ by their hypervisor alone."""
    if not label:
        return (item.nodeid,)
    # Twins share the very same values. Values need not be comparable or hashable.
    others = {**item.callspec.params, "hypervisor": None}  # type: ignore[attr-defined]
    values = sorted((name, id(value)) for name, value in others.items())
    return (item.nodeid.partition("[")[0], *values)
