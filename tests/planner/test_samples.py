"""Samples as arrays: the grid of moments, gaps, and files that nobody imported."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import PlanError
from harness.planner.samples import Grid, filled, hourly_maxima, read_blocks, weekly_maxima
from tests.planner.data_folders import MONDAY, Machine, write_data

NAN = math.nan


def row(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def test_hours_of_the_week_begin_on_monday() -> None:
    start = datetime(2026, 3, 4, 17, 30, tzinfo=UTC)  # a Wednesday
    grid = Grid(start.timestamp(), 1800, 400)
    for moment, hour in enumerate(grid.hour_of_week):
        time = start + timedelta(seconds=1800 * moment)
        assert hour == 24 * time.weekday() + time.hour
    assert grid.hour[:4].tolist() == [0, 1, 1, 2]
    assert grid.part(2, 5) == Grid(start.timestamp() + 3600, 1800, 3)


def test_a_short_gap_has_the_value_before_it() -> None:
    grid = Grid(MONDAY, 300, 7)
    values = row(1, NAN, NAN, NAN, 5, NAN, 7)  # 15 minutes, 5 minutes
    assert filled(values, grid).tolist() == [[1, 1, 1, 1, 5, 5, 7]]


def test_a_long_gap_has_the_highest_of_this_hour_in_other_weeks() -> None:
    grid = Grid(MONDAY, 3600, 3 * 168)
    values = np.full((1, grid.count), 1.0, np.float32)
    values[0, [10, 178]] = 4.0, 3.0
    values[0, 300] = 9.0
    gap = 346  # hour 10 of the third week
    values[0, gap - 2 : gap + 2] = NAN
    found = filled(values, grid)
    assert found[0, gap] == 4.0
    assert found[0, gap - 1] == 1.0


def test_an_hour_without_any_sample_has_the_highest_of_all() -> None:
    grid = Grid(MONDAY, 3600, 24)
    values = np.full((2, 24), 1.0, np.float32)
    values[0, 3], values[0, 10:14] = 6.0, NAN
    values[1] = NAN
    found = filled(values, grid)
    assert found[0, 10:14].tolist() == [6.0] * 4
    assert np.isnan(found[1]).all()  # nobody measured it at any time
    assert np.isnan(values[0, 10])  # the input is unchanged


SERIES = st.lists(st.one_of(st.just(NAN), st.floats(0, 100, width=32)), min_size=40, max_size=400)


@given(values=SERIES, offset=st.integers(0, 10**6))
def test_filled_demand_is_never_less_than_measured_and_never_unknown(
    values: list[float], offset: int
) -> None:
    grid = Grid(MONDAY + 300 * offset, 1800, len(values))
    array = np.array([values], np.float32)
    found = filled(array, grid)
    known = ~np.isnan(array)
    assert np.array_equal(found[known], array[known])
    if known.any():
        assert not np.isnan(found).any()
        assert found.min() >= np.nanmin(array)
        assert found.max() == np.nanmax(array)


@given(values=SERIES, offset=st.integers(0, 10**6), step=st.sampled_from([300, 1800, 7200]))
def test_maxima_are_those_of_a_loop(values: list[float], offset: int, step: int) -> None:
    grid = Grid(MONDAY + 300 * offset, step, len(values))
    hours: dict[int, float] = {}
    weeks: dict[int, float] = {}
    for moment, value in enumerate(values):
        time = datetime.fromtimestamp(grid.start + moment * step, UTC)
        if not math.isnan(value):
            for maxima, key in (
                (hours, int(time.timestamp() // 3600 - grid.start // 3600)),
                (weeks, 24 * time.weekday() + time.hour),
            ):
                maxima[key] = max(maxima.get(key, 0.0), value)
    array = np.array([values], np.float32)
    for found, expected in (
        (hourly_maxima(array, grid)[0], hours),
        (weekly_maxima(array, grid)[0], weeks),
    ):
        assert {k: v for k, v in enumerate(found.tolist()) if not math.isnan(v)} == expected


def test_blocks_have_all_samples_on_the_grid(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    machines = [
        Machine(f"vm-{n}", {"cpu_cores": random.random(20), "read_iops": random.random(20)})
        for n in range(70)  # more than buckets
    ]
    folder = write_data(tmp_path / "data", machines, moments=20)
    names = [one.name for one in machines][::-1]
    grid = Grid.of(folder.description)
    seen = []
    for block in read_blocks(folder, names, grid):
        for place, cpu, iops in zip(block.places, block.cpu, block.iops, strict=True):
            values = machines[69 - place].values
            assert np.array_equal(cpu, np.asarray(values["cpu_cores"], np.float32))
            assert np.array_equal(iops, np.asarray(values["read_iops"], np.float32))
            seen.append(place)
        assert np.isnan(block.memory).all()
        assert not block.has_max.any()
        assert np.array_equal(block.cpu, block.cpu_max)
    assert sorted(seen) == list(range(70))


def test_of_two_samples_in_one_step_the_higher_one_counts(tmp_path: Path) -> None:
    machine = Machine("vm", {"cpu_cores": [1, 5, 2, 3]}, times=[0, 1.2, 1.9, 2])
    folder = write_data(tmp_path / "data", [machine], moments=3)
    (block,) = read_blocks(folder, ["vm"], Grid.of(folder.description))
    assert block.cpu.tolist() == [[1, 5, 3]]


def test_samples_outside_of_the_described_time_are_ignored(tmp_path: Path) -> None:
    machine = Machine("vm", {"cpu_cores": [1, 2, 3, 4]}, times=[-1, 0, 1, 2])
    folder = write_data(tmp_path / "data", [machine], moments=2)
    (block,) = read_blocks(folder, ["vm"], Grid.of(folder.description))
    assert block.cpu.tolist() == [[2, 3]]


def test_the_highest_of_an_interval_is_kept_beside_its_mean(tmp_path: Path) -> None:
    values = {"cpu_cores": [1, 2, 3], "cpu_cores_max": [4, NAN, 5]}
    folder = write_data(tmp_path / "data", [Machine("vm", values)], moments=3)
    (block,) = read_blocks(folder, ["vm"], Grid.of(folder.description))
    assert block.cpu.tolist() == [[1, 2, 3]]
    assert block.cpu_max.tolist() == [[4, 2, 5]]
    assert block.has_max.tolist() == [True]


@pytest.mark.parametrize("value", [-1.0, math.inf])
def test_impossible_demand_is_refused(tmp_path: Path, value: float) -> None:
    folder = write_data(tmp_path / "data", [Machine("vm", {"cpu_cores": [1, value]})], moments=2)
    with pytest.raises(PlanError, match="negative or infinite values of cpu") as raised:
        list(read_blocks(folder, ["vm"], Grid.of(folder.description)))
    assert raised.value.hint == "import the sources again"


def test_a_damaged_bucket_is_refused(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "data", [Machine("vm", {"cpu_cores": [1]})], moments=1)
    (path,) = folder.trace_files()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PlanError, match="no samples of a trace"):
        list(read_blocks(folder, ["vm"], Grid.of(folder.description)))
    pq.write_table(pa.table({"vm": ["vm"]}), path)
    with pytest.raises(PlanError, match="no samples of a trace"):
        list(read_blocks(folder, ["vm"], Grid.of(folder.description)))


@pytest.mark.parametrize(
    "change", [{"step": 0.0}, {"step": 1e-6}, {"end": MONDAY - 1}, {"step": NAN}, {"end": 1e18}]
)
def test_an_impossible_time_of_the_trace_is_refused(
    tmp_path: Path, change: dict[str, float]
) -> None:
    folder = write_data(tmp_path / "data", [Machine("vm", {"cpu_cores": [1]})], moments=1)
    with pytest.raises(PlanError, match="the data has a step of"):
        Grid.of(replace(folder.description, **change))  # type: ignore[arg-type]
