"""Pairs of runs, measured in turn."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from harness.errors import ResultError
from harness.results.compare import SERIES, kind_of
from harness.results.paired import enough, paired, sign_test
from harness.results.store import facts_of
from harness.results.track import series_id
from tests.results.nightly import night

Pairs = list[tuple[Path, Path]]


def pairs(store: Path, factor: float, count: int = 8, drift: float = 0.0) -> Pairs:
    """Both sides drift together: what a host that slows down does to both."""
    made = []
    for number in range(count):
        level = 10.0 * (1 + drift) ** number
        base = night(store, 2 * number, {"a.it": level, "a.other": level}, boots=3)
        new = night(store, 2 * number + 1, {"a.it": level * factor, "a.other": level}, boots=3)
        made.append((base, new))
    return made


def test_a_difference_is_confirmed_through_drift(tmp_path: Path) -> None:
    found = paired(pairs(tmp_path, 1.08, drift=0.1))
    (row,) = found.regressed.to_dict("records")
    assert row["metric"] == "a.it"
    assert row["effect"] == pytest.approx(0.08, abs=0.02)
    assert row["low"] < row["effect"] < row["high"]
    assert row["p"] == pytest.approx(2 / 2**8)


def test_equals_are_not(tmp_path: Path) -> None:
    assert not paired(pairs(tmp_path, 1.0)).table["confirmed"].any()


def test_better_is_no_regression(tmp_path: Path) -> None:
    found = paired(pairs(tmp_path, 0.9))
    assert found.table["confirmed"].sum() == 1
    assert found.regressed.empty


def test_one_among_many_takes_more_pairs(tmp_path: Path) -> None:
    levels = {f"a.n{n}": 10.0 for n in range(30)}
    made = [
        (night(tmp_path, 2 * n, levels), night(tmp_path, 2 * n + 1, {**levels, "a.n3": 15.0}))
        for n in range(enough(30))
    ]
    assert list(paired(made).regressed["metric"]) == ["a.n3"]
    few = paired(made[: enough(1)])
    assert few.regressed.empty, "so few cannot tell, among 30"
    (mine,) = few.table[few.table["metric"] == "a.n3"][SERIES].itertuples(index=False, name=None)
    named = series_id((*kind_of(facts_of(made[0][0])), *mine))
    assert list(paired(made[: enough(1)], named).regressed["metric"]) == ["a.n3"]


def test_how_many_pairs_are_enough() -> None:
    assert [enough(figures) for figures in (1, 2, 30, 266)] == [6, 7, 11, 14]


def test_nothing_in_common_is_an_error(tmp_path: Path) -> None:
    made = [(night(tmp_path, 0, {"a.one": 1.0}), night(tmp_path, 1, {"a.other": 1.0}))]
    with pytest.raises(ResultError, match="have no figure above 0 in common"):
        paired(made)
    with pytest.raises(ResultError, match="have no figure feed above 0 in common"):
        paired(pairs(tmp_path / "other", 1.0, count=1), "feed")


def test_few_pairs_tell_nothing(tmp_path: Path) -> None:
    found = paired(pairs(tmp_path, 2.0, count=5))
    assert found.table["p"].isna().all()
    assert not found.table["confirmed"].any()


def test_the_sign_test_is_the_permutation_test() -> None:
    logs = np.random.default_rng(3).normal(0.3, 1, 9)
    theirs = scipy.stats.permutation_test(
        (logs,), np.mean, permutation_type="samples", n_resamples=10_000
    )
    assert sign_test(logs) == pytest.approx(theirs.pvalue)
    every = [abs(np.dot(signs, logs)) for signs in itertools.product((1, -1), repeat=9)]
    assert sign_test(logs) == pytest.approx(np.mean(np.asarray(every) >= abs(logs.sum()) - 1e-12))


def test_many_pairs_are_drawn() -> None:
    logs = np.full(20, 0.1)
    assert 0 < sign_test(logs) < 0.01
    mixed = np.asarray([0.1, -0.1] * 10)
    assert sign_test(mixed) == 1.0
