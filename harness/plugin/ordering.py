"""The order of tests that run on several hypervisors: A B C, C B A, A B C, ..., or by chance."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import count
from typing import TypeVar

import pytest

T = TypeVar("T", bound=pytest.Item)


def interleave(
    items: Sequence[T], label_of: Callable[[T], str], seed: int | None = None
) -> list[T]:
    """One test on all hypervisors, then the next; every second one the other way round, or with a
    seed each in an order that is drawn.

    label_of: a test's hypervisor, "" for none. Modules and what is not for several keep their
    places: a test comes where its first twin was.
    """
    twins: dict[tuple[object, ...], list[T]] = {}
    for item in items:
        twins.setdefault(_without(item, label_of(item)), []).append(item)
    turn = count()
    chance = None if seed is None else random.Random(seed)  # noqa: S311 - to be repeatable
    ordered: list[T] = []
    for group in twins.values():
        if chance is not None:
            chance.shuffle(group)
        elif len(group) > 1 and next(turn) % 2:
            group.reverse()
        ordered += group
    return ordered


def _without(item: pytest.Item, label: str) -> tuple[object, ...]:
    """What tells a test from others but not from its twins."""
    if not label:
        return (item.nodeid,)
    # twins have the very same values, of which nobody said that they can be compared
    others = {**item.callspec.params, "hypervisor": None}  # type: ignore[attr-defined]
    values = sorted((name, id(value)) for name, value in others.items())
    return (item.nodeid.partition("[")[0], *values)
