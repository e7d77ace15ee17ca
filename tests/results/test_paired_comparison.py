"""Comparison of pairs of runs."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from harness.errors import ResultError
from harness.results.compare import SERIES
from harness.results.environment import configuration_of
from harness.results.history import series_id
from harness.results.paired_comparison import compare_pairs, required_pairs, sign_test
from harness.results.store import facts_of
from tests.results.nightly_store import night

Pairs = list[tuple[Path, Path]]


def pairs(store: Path, factor: float, count: int = 8, drift: float = 0.0) -> Pairs:
    """Pairs of runs whose levels drift together, as on a host that slows down."""
    pairs = []
    for number in range(count):
        level = 10.0 * (1 + drift) ** number
        base = night(store, 2 * number, {"a.it": level, "a.other": level}, boots=3)
        new = night(store, 2 * number + 1, {"a.it": level * factor, "a.other": level}, boots=3)
        pairs.append((base, new))
    return pairs


def test_difference_is_confirmed_despite_drift(tmp_path: Path) -> None:
    comparison = compare_pairs(pairs(tmp_path, 1.08, drift=0.1))
    (row,) = comparison.regressed.to_dict("records")
    assert row["metric"] == "a.it"
    assert row["effect"] == pytest.approx(0.08, abs=0.02)
    assert row["low"] < row["effect"] < row["high"]
    assert row["p"] == pytest.approx(2 / 2**8)


def test_equal_revisions_are_not_confirmed(tmp_path: Path) -> None:
    assert not compare_pairs(pairs(tmp_path, 1.0)).table["confirmed"].any()


def test_better_is_no_regression(tmp_path: Path) -> None:
    comparison = compare_pairs(pairs(tmp_path, 0.9))
    assert comparison.table["confirmed"].sum() == 1
    assert comparison.regressed.empty


def test_more_figures_require_more_pairs(tmp_path: Path) -> None:
    levels = {f"a.n{n}": 10.0 for n in range(30)}
    measured = [
        (night(tmp_path, 2 * n, levels), night(tmp_path, 2 * n + 1, {**levels, "a.n3": 15.0}))
        for n in range(required_pairs(30))
    ]
    assert list(compare_pairs(measured).regressed["metric"]) == ["a.n3"]
    few = compare_pairs(measured[: required_pairs(1)])
    assert few.regressed.empty, "6 pairs have no power for 30 figures"
    (mine,) = few.table[few.table["metric"] == "a.n3"][SERIES].itertuples(index=False, name=None)
    named = series_id((*configuration_of(facts_of(measured[0][0])), *mine))
    assert list(compare_pairs(measured[: required_pairs(1)], named).regressed["metric"]) == ["a.n3"]


def test_required_pairs() -> None:
    assert [required_pairs(figures) for figures in (1, 2, 30, 266)] == [6, 7, 11, 14]


def test_pairs_without_common_figure_are_an_error(tmp_path: Path) -> None:
    without_common = [(night(tmp_path, 0, {"a.one": 1.0}), night(tmp_path, 1, {"a.other": 1.0}))]
    with pytest.raises(ResultError, match="have no figure above 0 in common"):
        compare_pairs(without_common)
    with pytest.raises(ResultError, match="have no figure feed above 0 in common"):
        compare_pairs(pairs(tmp_path / "other", 1.0, count=1), "feed")


def test_few_pairs_have_no_p_value(tmp_path: Path) -> None:
    comparison = compare_pairs(pairs(tmp_path, 2.0, count=5))
    assert comparison.table["p"].isna().all()
    assert not comparison.table["confirmed"].any()


def test_sign_test_matches_permutation_test() -> None:
    logs = np.random.default_rng(3).normal(0.3, 1, 9)
    theirs = scipy.stats.permutation_test(
        (logs,), np.mean, permutation_type="samples", n_resamples=10_000
    )
    assert sign_test(logs) == pytest.approx(theirs.pvalue)
    every = [abs(np.dot(signs, logs)) for signs in itertools.product((1, -1), repeat=9)]
    assert sign_test(logs) == pytest.approx(np.mean(np.asarray(every) >= abs(logs.sum()) - 1e-12))


def test_many_pairs_use_sampled_signs() -> None:
    logs = np.full(20, 0.1)
    assert 0 < sign_test(logs) < 0.01
    mixed = np.asarray([0.1, -0.1] * 10)
    assert sign_test(mixed) == 1.0
