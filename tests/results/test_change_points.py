"""Change points, compared with the formulas of the paper and with scipy, and on noise."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from harness.results import change_points
from harness.results.change_points import find_change_points
from harness.results.statistics import Floats

REAL = Path(__file__).parents[3] / "shared" / "data" / "azure-vm-noise-nightly.csv"
STEP = 80  # the night from which on values are multiplied
DAYS = 7  # within which it must be found
SHUFFLES = 6


def divided(old: Floats, new: Floats) -> float:
    """arXiv 1306.4933, eq. 5 and 6, written out, with alpha 1."""

    def mean(pairs: list[tuple[float, float]]) -> float:
        return sum(abs(a - b) for a, b in pairs) / len(pairs)

    m, n = len(old), len(new)
    between = mean(list(itertools.product(old, new)))
    within = mean(list(itertools.combinations(old, 2))), mean(list(itertools.combinations(new, 2)))
    return m * n / (m + n) * (2 * between - sum(within))


def best_split(values: Floats) -> int:
    """The best split of one series by the formula."""
    latest = len(values) - change_points.MIN_AFTER
    splits = range(max(change_points.MIN_BEFORE, len(values) - change_points.MAX_AFTER), latest + 1)
    return max(splits, key=lambda at: divided(values[:at], values[at:]))


@pytest.mark.parametrize("seed", range(5))
def test_split_matches_e_divisive(seed: int) -> None:
    values = np.random.default_rng(seed).lognormal(0, 0.05, (4, 40))
    values[1, 30:] *= 1.2
    values[2, 36:] *= 0.8
    sums = change_points._DistanceSums.start(values, np.zeros(4, dtype=np.int64))
    for night in range(40):
        sums.add(night)
    place, before, after = sums.splits(39)
    assert place.tolist() == [best_split(row) for row in values]
    assert (before + after).tolist() == [40] * 4
    # also from a later base
    sums.begin_level(1, 12, 39)
    assert sums.splits(39)[0][1] == 12 + best_split(values[1, 12:])


def test_rank_test_matches_scipy() -> None:
    random = np.random.default_rng(1)
    for m, n in ((8, 4), (30, 7), (80, 10), (3, 3)):
        old, new = random.normal(0, 1, m), random.normal(0.8, 1, n)
        theirs = scipy.stats.mannwhitneyu(new, old, method="exact")
        above = np.asarray([float(theirs.statistic)])
        ours = change_points.rank_test(above, np.asarray([m]), np.asarray([n]))
        assert ours[0] == pytest.approx(theirs.pvalue)


def test_ties_are_no_evidence() -> None:
    same = np.ones((1, 60))
    assert find_change_points(same) == []
    above = np.asarray([40 * 10 / 2])  # every pair is a tie
    assert change_points.rank_test(above, np.asarray([40]), np.asarray([10]))[0] == 1.0


def noise(shape: tuple[int, int], seed: int, spread: float = 0.01) -> Floats:
    return 100 * np.random.default_rng(seed).lognormal(0, spread, shape)


def test_step_is_detected_once_at_its_night() -> None:
    values = noise((3, 60), 1)
    values[1, 40:] *= 1.1
    (changes,) = find_change_points(values)
    assert (changes.series, changes.base, changes.start) == (1, 0, 40)
    assert changes.detected == 40 + change_points.MIN_AFTER - 1, (
        "detected with the first sufficient night"
    )
    assert changes.after / changes.before == pytest.approx(1.1, abs=0.02)
    assert changes.p < change_points.ALPHA


def test_step_back_is_detected() -> None:
    values = noise((1, 80), 2)
    values[0, 40:60] *= 1.2
    up, down = find_change_points(values)
    assert (up.start, down.base, down.start) == (40, 40, 60)
    assert up.after > up.before
    assert down.after < down.before


def test_missing_nights_delay_detection() -> None:
    values = noise((2, 60), 3)
    values[0, 40:] *= 1.1
    values[0, [5, 17, 41, 43]] = np.nan
    values[1, :50] = np.nan  # too short for a verdict
    (changes,) = find_change_points(values)
    assert (changes.series, changes.start) == (0, 40)
    assert changes.detected == 40 + change_points.MIN_AFTER + 1, (
        "two missing nights delay the detection"
    )


def test_detected_changes_are_final() -> None:
    values = noise((20, 90), 4)
    values[:10, 50:] *= 0.92
    whole = find_change_points(values)
    for night in (54, 60, 75):
        before = [change for change in whole if change.detected < night]
        assert find_change_points(values[:, :night]) == before


def test_since_excludes_earlier_nights() -> None:
    values = noise((1, 90), 5)
    values[0, 30:] *= 2
    (changes,) = find_change_points(values)
    assert changes.start == 30
    assert find_change_points(values, np.asarray([35])) == []


@pytest.mark.parametrize(
    ("steps", "spread"),
    [
        (dict.fromkeys(range(180), 1 + 0.1 / 180), 0.005),  # a drift of 10 %
        ({40: 1.025, 70: 1.025}, 0.01),  # each of them is small
        ({40: 1.028, 70: 1.05}, 0.01),  # the second after one that is no news
    ],
    ids=["drift", "creep", "after-a-small-one"],
)
def test_drift_and_small_steps_are_detected(steps: dict[int, float], spread: float) -> None:
    values = noise((20, 180), 8, spread)
    for night, factor in steps.items():
        values[:, night:] *= factor
    assert len({one.series for one in find_change_points(values)}) >= 18


def test_reset_series_waits_for_min_nights() -> None:
    values = noise((1, 60), 9)
    values[0, 39:] *= 1.2
    (changes,) = find_change_points(values, np.asarray([30]))
    assert changes.detected >= 30 + change_points.MIN_NIGHTS - 1


def test_change_late_in_a_long_series_is_detected() -> None:
    values = noise((2, 700), 10)
    values[0, 650:] *= 1.1
    (changes,) = find_change_points(values)
    assert (changes.series, changes.start) == (0, 650)


def test_step_below_min_effect_is_no_change() -> None:
    values = noise((1, 60), 6, spread=0.001)
    values[0, 40:] *= 1.02
    assert find_change_points(values) == [], "2 % is significant here, but below MIN_EFFECT"


def test_level_of_zero_has_no_change() -> None:
    values = np.zeros((1, 60))
    values[0, 40:] = 5.0
    assert find_change_points(values) == []


def nights_of(table: pd.DataFrame) -> Floats:
    """The values in shape (series, nights)."""
    return table[[f"n{night:03d}" for night in range(120)]].to_numpy(dtype=np.float64)


def rates(nights: Floats, seeds: range) -> dict[str, float]:
    """Alerts per hundred nights of shuffled series, and the share of steps detected in time."""
    alerts, detected = 0, {0.95: 0, 0.90: 0}
    for seed in seeds:
        shuffled = np.random.default_rng(seed).permuted(nights, axis=1)
        alerts += len(find_change_points(shuffled))
        for factor in detected:
            stepped = shuffled[:, : STEP + DAYS].copy()
            stepped[:, STEP:] *= factor
            late = [one for one in find_change_points(stepped) if one.detected >= STEP]
            detected[factor] += len({one.series for one in late if abs(one.start - STEP) <= DAYS})
    series, count = nights.shape
    return {
        "alerts": 100 * alerts / (len(seeds) * series * (count - change_points.MIN_NIGHTS)),
        **{f"{factor}": hits / (len(seeds) * series) for factor, hits in detected.items()},
    }


@pytest.mark.skipif(not REAL.exists(), reason="the data set of real noise is not available")
def test_rates_on_real_noise() -> None:
    """Azure's vm-noise-data (CC-BY 4.0): 92 series of 120 nights."""
    measured_rates = rates(nights_of(pd.read_csv(REAL)), range(SHUFFLES))
    assert measured_rates["alerts"] <= 0.1
    assert measured_rates["0.9"] >= 0.95
    assert measured_rates["0.95"] >= 0.70


def test_rates_on_generated_noise() -> None:
    """Synthetic noise: most series are quiet, some have heavy tails, some have two levels."""
    random = np.random.default_rng(7)
    spread = random.choice([0.005, 0.01, 0.015, 0.03], size=90)
    series = 50 * np.exp(spread[:, None] * random.standard_t(4, (90, 120)) / np.sqrt(2))
    series[:9] *= np.where(random.random((9, 120)) < 0.3, 1.04, 1.0)
    measured_rates = rates(series, range(SHUFFLES))
    assert measured_rates["alerts"] <= 0.1
    assert measured_rates["0.9"] >= 0.95
    assert measured_rates["0.95"] >= 0.70
