"""Slots partition the moments, and split where machines need most."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from harness.planner import slots
from harness.planner.samples import Grid
from tests.planner.data_folders import MONDAY

WEEKS = Grid(MONDAY, 1800, 3 * 336)


def test_a_long_trace_has_hours_of_the_week() -> None:
    assert slots.samples(WEEKS).count == 3 * 336
    assert slots.hours(WEEKS, 3 * 168).count == 3 * 168
    assert slots.hours(WEEKS, 3 * 168 - 1).count == 168
    assert slots.hours(Grid(MONDAY, 1800, 300), 1).count == 150  # hours of the week are not fewer
    assert slots.whole(WEEKS).count == 1
    assert not slots.hours(WEEKS, 504).single.any()
    assert slots.samples(WEEKS).single.all()


@given(
    seed=st.integers(0, 1000), most=st.integers(168, 2000), base_most=st.sampled_from([168, 504])
)
def test_refined_slots_are_a_finer_partition(seed: int, most: int, base_most: int) -> None:
    random = np.random.default_rng(seed)
    base = slots.hours(WEEKS, base_most)
    values = random.random((1, WEEKS.count)).astype(np.float32)
    coarse = base.maxima(values)[0].astype(np.float64)
    found = slots.refined(base, coarse, values[0].astype(np.float64), most)
    assert found.count <= max(most, base.count + np.bincount(base.slot_of).max() - 1)
    assert sorted(set(found.slot_of.tolist())) == list(range(found.count))
    for slot in range(found.count):
        (moments,) = np.nonzero(found.slot_of == slot)
        whole = np.flatnonzero(base.slot_of == base.slot_of[moments[0]])
        assert len(moments) == 1 or np.array_equal(moments, whole)
    split = np.array(
        [found.single[found.slot_of[base.slot_of == s]].all() for s in range(base.count)]
    )
    if split.any():
        assert coarse[split].min() >= coarse[~split].max(initial=0.0)  # the busiest ones


def test_only_busy_slots_are_split() -> None:
    base = slots.hours(WEEKS, 504)
    need = np.where(np.arange(504) == 7, 10.0, 1.0)
    found = slots.refined(base, need, np.full(WEEKS.count, 10.0), 10**6)
    assert found.count == 505  # an hour of two moments
    assert (found.single[found.slot_of[14:16]]).all()


@given(seed=st.integers(0, 1000), count=st.integers(1, 50))
def test_maxima_are_those_of_a_loop(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    partition = slots.Slots(np.unique(random.integers(0, count, 200), return_inverse=True)[1])
    values = random.random((3, 200)).astype(np.float32)
    found = partition.maxima(values)
    for slot in range(partition.count):
        assert np.array_equal(found[:, slot], values[:, partition.slot_of == slot].max(axis=1))
