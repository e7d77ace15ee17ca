"""Cleaning of samples, compared with a slow program that follows the rules row by row."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import PlanError
from harness.planner.buckets import ROW, Rows
from harness.planner.cleaning import clean, other_steps, sort_rows, usual_step
from tests.planner.importing import counts, csv_trace, import_from, minutes, trace

STEP = 300_000
T0 = 1_772_409_600_000
NAN = math.nan


def rows_of(*samples: tuple[int, float, float, float], origin: int = T0) -> Rows:
    """Samples as (machine, s, CPU, memory)."""
    rows = np.full(len(samples), 0, ROW)
    rows["values"] = NAN
    for row, (vm, second, cpu, memory) in zip(rows, samples, strict=True):
        row["vm"], row["time"] = vm, origin + round(second * 1000)
        row["values"][0], row["values"][1] = cpu, memory
    return rows


def columns(rows: Rows) -> list[tuple[int, float, float, float]]:
    """The samples as rows_of() takes them."""
    return [
        (int(row["vm"]), (int(row["time"]) - T0) / 1000, float(cpu), float(memory))
        for row in rows
        for cpu, memory in [row["values"][:2]]
    ]


Key = tuple[int, int]


def _carry(steps: dict[Key, list[float]], result: dict[Key, list[float]], place: int) -> None:
    """Carry the values of one column over gaps of up to three steps."""
    known = sorted(key for key, row in steps.items() if not math.isnan(row[place]))
    for (vm, first), (other, second) in pairwise(known):
        if vm == other and second - first <= 4:
            for step in range(first + 1, second):
                result.setdefault((vm, step), [NAN, NAN])[place] = steps[vm, first][place]


def slow_clean(samples: list[tuple[int, float, float, float]]) -> dict[Key, list[float]]:
    """The rules, one after another, for columns CPU and memory: (machine, step) to values."""
    at_time: dict[tuple[int, float], list[float]] = {}
    for vm, second, *new in samples:
        row = at_time.setdefault((vm, second), [NAN, NAN])
        for place, value in enumerate(new):
            if not math.isnan(value):
                row[place] = value  # the last one counts
    steps: dict[Key, list[float]] = {}
    for (vm, second), new in at_time.items():
        row = steps.setdefault((vm, int(second // 300)), [NAN, NAN])
        for place, value in enumerate(new):
            if math.isnan(row[place]) or value > row[place]:
                row[place] = value  # the higher one counts
    result = {key: list(row) for key, row in steps.items()}
    for (vm, first), (other, second) in pairwise(sorted(steps)):
        if vm == other and second - first <= 4:
            result.update(((vm, step), [NAN, NAN]) for step in range(first + 1, second))
    for place in (0, 1):
        _carry(steps, result, place)
    return result


VALUES = st.one_of(st.just(NAN), st.integers(0, 9).map(float))
SAMPLES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 40).map(lambda n: 100.0 * n), VALUES, VALUES),
    min_size=1,
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(SAMPLES)
def test_clean_follows_the_rules(samples: list[tuple[int, float, float, float]]) -> None:
    expected = slow_clean(samples)
    cleaned = clean(rows_of(*samples, origin=T0), STEP).rows
    first = T0 // STEP
    found = {
        (int(row["vm"]), int(row["time"]) // STEP - first): row["values"][:2].tolist()
        for row in cleaned
    }
    assert len(found) == len(cleaned)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(found[key], values)
    assert (cleaned["time"] % STEP == 0).all()
    assert sort_rows(cleaned) is cleaned


@settings(max_examples=100, deadline=None)
@given(SAMPLES, st.randoms(use_true_random=False))
def test_order_of_machines_does_not_matter(samples, random) -> None:  # type: ignore[no-untyped-def]
    unique = list({sample[:2]: sample for sample in samples}.values())
    shuffled = random.sample(unique, len(unique))
    one, other = (clean(rows_of(*part), STEP).rows for part in (unique, shuffled))
    np.testing.assert_array_equal(one["values"], other["values"])
    np.testing.assert_array_equal(one["time"], other["time"])


def test_parts_of_one_sample_are_not_duplicates() -> None:
    cleaned = clean(rows_of((1, 0, 2.0, NAN), (1, 0, NAN, 7.0), (1, 300, 1.0, 7.0)), STEP)
    assert columns(cleaned.rows) == [(1, 0, 2.0, 7.0), (1, 300, 1.0, 7.0)]
    assert cleaned.duplicates == 0


def test_last_of_repeated_samples_counts() -> None:
    cleaned = clean(rows_of((1, 0, 2.0, 5.0), (1, 300, 1.0, 5.0), (1, 0, 1.0, NAN)), STEP)
    assert columns(cleaned.rows)[0] == (1, 0, 1.0, 5.0)
    assert cleaned.duplicates == 1


def test_higher_of_two_samples_in_one_step_counts() -> None:
    cleaned = clean(rows_of((1, 0, 2.0, 5.0), (1, 299, 1.0, 6.0), (1, 300, 0, 0)), STEP)
    assert columns(cleaned.rows)[0] == (1, 0, 2.0, 6.0)
    assert cleaned.merged == 1


def test_gap_of_fifteen_minutes_is_carried_and_a_longer_one_stays() -> None:
    cleaned = clean(rows_of((1, 0, 2.0, 5.0), (1, 1200, 1.0, 5.0), (1, 2700, 3.0, 5.0)), STEP)
    assert [one[1:3] for one in columns(cleaned.rows)] == [
        *((0, 2.0), (300, 2.0), (600, 2.0), (900, 2.0)),
        *((1200, 1.0), (2700, 3.0)),
    ]
    assert (cleaned.gaps, cleaned.carried) == (1, 6)  # values of two columns
    assert cleaned.gap_machines.tolist() == [1]


def test_average_keeps_the_highest_demand(tmp_path: Path) -> None:
    rows = [
        f"{time},vm,{cpu},100"
        for time, cpu in zip(minutes(*range(10)), (0, 1, 2, 3, 4, 8, 8, 8, 8, 8), strict=True)
    ]
    data = import_from(tmp_path / "data", csv_trace(tmp_path / "trace.csv", rows), step=300)
    frame = trace(data)
    assert frame["cpu_cores"].tolist() == [2, 8]
    assert frame["cpu_cores_max"].tolist() == [4, 8]
    assert frame["memory_mib"].tolist() == [100, 100]
    assert counts(data)["resampled"] == 8


@pytest.mark.parametrize(
    ("lengths", "step"),
    [
        ([300] * 9, 300),
        ([300, 301, 301, 301, 300], 300),
        ([300, 300, 3000, 300, 900], 300),
        ([3, 3, 4, 3], 3),
        ([20, 20, 20], 20),
        ([3600, 3601, 3600], 3600),
    ],
)
def test_usual_step(lengths: list[int], step: int) -> None:
    seconds = np.cumsum([0, *lengths]).tolist()
    assert usual_step(rows_of(*((1, second, 1.0, 1.0) for second in seconds))) == 1000 * step


def test_usual_step_needs_two_samples_of_one_machine() -> None:
    assert usual_step(rows_of((1, 0, 1, 1), (2, 300, 1, 1), (3, 0, 1, 1))) is None


def test_machines_with_another_step() -> None:
    rows = sort_rows(
        rows_of(
            *((1, 300 * n, 1, 1) for n in range(10)),
            *((2, 60 * n, 1, 1) for n in range(10)),
            *((3, 3600 * n, 1, 1) for n in range(10)),
            *((4, second, 1, 1) for second in (0, 300, 4000, 11_000, 60_000)),  # gaps
            (5, 0, 1, 1),
        )
    )
    assert other_steps(rows, STEP, averaged=False) == {2: 60_000, 3: 3_600_000}
    assert other_steps(rows, STEP, averaged=True) == {3: 3_600_000}


def test_mixed_steps_are_refused_and_can_be_averaged(tmp_path: Path) -> None:
    fine = [f"{time},fine,1,1" for time in minutes(*range(30))]
    coarse = [f"{time},coarse{n},1,1" for n in range(9) for time in minutes(0, 5, 10, 15, 20, 25)]
    file = csv_trace(tmp_path / "trace.csv", fine + coarse)
    with pytest.raises(PlanError, match=r"column time: machine .* has a sample each") as info:
        import_from(tmp_path / "data", file)
    assert info.value.hint == "export all with one step, or average them with --step=300"
    data = import_from(tmp_path / "data", file, step=300)
    assert len(trace(data)) == 60
