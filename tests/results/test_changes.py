"""Change points: against the papers' formula written out, against scipy, and on noise."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from harness.results import changes
from harness.results.changes import watch
from harness.results.statistics import Floats

REAL = Path(__file__).parents[3] / "shared" / "data" / "azure-vm-noise-nightly.csv"
STEP = 80  # the night from which on values are multiplied
DAYS = 7  # within which it must be found
SHUFFLES = 6


def divided(old: Floats, new: Floats) -> float:
    """arXiv 1306.4933, eq. 5 and 6, as they stand there, with alpha 1."""

    def mean(pairs: list[tuple[float, float]]) -> float:
        return sum(abs(a - b) for a, b in pairs) / len(pairs)

    m, n = len(old), len(new)
    between = mean(list(itertools.product(old, new)))
    within = mean(list(itertools.combinations(old, 2))), mean(list(itertools.combinations(new, 2)))
    return m * n / (m + n) * (2 * between - sum(within))


def best_split(values: Floats) -> int:
    """By the formula, of one series."""
    latest = len(values) - changes.LEAST
    splits = range(max(changes.BEFORE, len(values) - changes.RECENT), latest + 1)
    return max(splits, key=lambda at: divided(values[:at], values[at:]))


@pytest.mark.parametrize("seed", range(5))
def test_the_split_is_e_divisives(seed: int) -> None:
    values = np.random.default_rng(seed).lognormal(0, 0.05, (4, 40))
    values[1, 30:] *= 1.2
    values[2, 36:] *= 0.8
    state = changes._Sums.start(values, np.zeros(4, dtype=np.int64))
    for night in range(40):
        state.add(night)
    place, before, after = state.splits(39)
    assert place.tolist() == [best_split(row) for row in values]
    assert (before + after).tolist() == [40] * 4
    # and from a later base on
    state.begin(1, 12, 39)
    assert state.splits(39)[0][1] == 12 + best_split(values[1, 12:])


def test_the_rank_test_is_scipys() -> None:
    random = np.random.default_rng(1)
    for m, n in ((8, 4), (30, 7), (80, 10), (3, 3)):
        old, new = random.normal(0, 1, m), random.normal(0.8, 1, n)
        theirs = scipy.stats.mannwhitneyu(new, old, method="exact")
        above = np.asarray([float(theirs.statistic)])
        ours = changes.rank_test(above, np.asarray([m]), np.asarray([n]))
        assert ours[0] == pytest.approx(theirs.pvalue)


def test_ties_never_help() -> None:
    same = np.ones((1, 60))
    assert watch(same) == []
    above = np.asarray([40 * 10 / 2])  # every pair is a tie
    assert changes.rank_test(above, np.asarray([40]), np.asarray([10]))[0] == 1.0


def noise(shape: tuple[int, int], seed: int, spread: float = 0.01) -> Floats:
    return 100 * np.random.default_rng(seed).lognormal(0, spread, shape)


def test_a_step_is_found_once_and_placed() -> None:
    values = noise((3, 60), 1)
    values[1, 40:] *= 1.1
    (found,) = watch(values)
    assert (found.series, found.base, found.start) == (1, 0, 40)
    assert found.found == 40 + changes.LEAST - 1, "as soon as there are enough nights"
    assert found.after / found.before == pytest.approx(1.1, abs=0.02)
    assert found.p < changes.ALPHA


def test_a_step_back_is_a_change_too() -> None:
    values = noise((1, 80), 2)
    values[0, 40:60] *= 1.2
    up, down = watch(values)
    assert (up.start, down.base, down.start) == (40, 40, 60)
    assert up.after > up.before
    assert down.after < down.before


def test_nights_without_a_value() -> None:
    values = noise((2, 60), 3)
    values[0, 40:] *= 1.1
    values[0, [5, 17, 41, 43]] = np.nan
    values[1, :50] = np.nan  # a new series: too short to be judged
    (found,) = watch(values)
    assert (found.series, found.start) == (0, 40)
    assert found.found == 40 + changes.LEAST + 1, "two nights later: two have no value"


def test_what_was_found_stays_when_nights_are_added() -> None:
    values = noise((20, 90), 4)
    values[:10, 50:] *= 0.92
    whole = watch(values)
    for night in (54, 60, 75):
        before = [change for change in whole if change.found < night]
        assert watch(values[:, :night]) == before


def test_from_a_later_night_on() -> None:
    values = noise((1, 90), 5)
    values[0, 30:] *= 2
    (found,) = watch(values)
    assert found.start == 30
    assert watch(values, np.asarray([35])) == []


@pytest.mark.parametrize(
    ("steps", "spread"),
    [
        (dict.fromkeys(range(180), 1 + 0.1 / 180), 0.005),  # a drift of 10 %
        ({40: 1.025, 70: 1.025}, 0.01),  # each of them is small
        ({40: 1.028, 70: 1.05}, 0.01),  # the second after one that is no news
    ],
    ids=["drift", "creep", "after-a-small-one"],
)
def test_what_creeps_is_found(steps: dict[int, float], spread: float) -> None:
    values = noise((20, 180), 8, spread)
    for night, factor in steps.items():
        values[:, night:] *= factor
    assert len({one.series for one in watch(values)}) >= 18


def test_a_series_that_begins_anew_waits_again() -> None:
    values = noise((1, 60), 9)
    values[0, 39:] *= 1.2
    (found,) = watch(values, np.asarray([30]))
    assert found.found >= 30 + changes.START - 1


def test_a_long_history() -> None:
    values = noise((2, 700), 10)
    values[0, 650:] *= 1.1
    (found,) = watch(values)
    assert (found.series, found.start) == (0, 650)


def test_small_steps_are_none() -> None:
    values = noise((1, 60), 6, spread=0.001)
    values[0, 40:] *= 1.02
    assert watch(values) == [], "2 % is sure here, and less than what counts"


def test_zero_and_below_are_no_levels() -> None:
    values = np.zeros((1, 60))
    values[0, 40:] = 5.0
    assert watch(values) == []


def nights_of(table: pd.DataFrame) -> Floats:
    """A row a series, a column a night."""
    return table[[f"n{night:03d}" for night in range(120)]].to_numpy(dtype=np.float64)


def rates(nights: Floats, seeds: range) -> dict[str, float]:
    """Of shuffled series: alerts a hundred nights, and which share of steps is found in time."""
    alerts, found = 0, {0.95: 0, 0.90: 0}
    for seed in seeds:
        shuffled = np.random.default_rng(seed).permuted(nights, axis=1)
        alerts += len(watch(shuffled))
        for factor in found:
            stepped = shuffled[:, : STEP + DAYS].copy()
            stepped[:, STEP:] *= factor
            late = [one for one in watch(stepped) if one.found >= STEP]
            found[factor] += len({one.series for one in late if abs(one.start - STEP) <= DAYS})
    series, count = nights.shape
    return {
        "alerts": 100 * alerts / (len(seeds) * series * (count - changes.START)),
        **{f"{factor}": hits / (len(seeds) * series) for factor, hits in found.items()},
    }


@pytest.mark.skipif(not REAL.exists(), reason="the real noise does not lie beside the project")
def test_on_real_noise() -> None:
    """Azure's vm-noise-data (CC-BY 4.0): 92 series of 120 nights."""
    found = rates(nights_of(pd.read_csv(REAL)), range(SHUFFLES))
    assert found["alerts"] <= 0.1
    assert found["0.9"] >= 0.95
    assert found["0.95"] >= 0.70


def test_on_generated_noise() -> None:
    """Of the same kind: most series quiet, some with tails, some of two levels that come and go."""
    random = np.random.default_rng(7)
    spread = random.choice([0.005, 0.01, 0.015, 0.03], size=90)
    made = 50 * np.exp(spread[:, None] * random.standard_t(4, (90, 120)) / np.sqrt(2))
    made[:9] *= np.where(random.random((9, 120)) < 0.3, 1.04, 1.0)
    found = rates(made, range(SHUFFLES))
    assert found["alerts"] <= 0.1
    assert found["0.9"] >= 0.95
    assert found["0.95"] >= 0.70
