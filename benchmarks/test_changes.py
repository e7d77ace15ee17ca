"""The change detector: its run time, and its detections and false alerts on real noise.

The noise is 92 series of 120 nights of Azure's vm-noise-data (CC-BY 4.0), in shared/data beside the
project. The constants of harness/results/changes.py were chosen on it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.results.change_points import find_change_points
from tests.results.test_change_points import REAL, nights_of, rates

SERIES, NIGHTS = 10_000, 120
SHUFFLES = 40


def test_ten_thousand_series(benchmark: BenchmarkFixture) -> None:
    series = np.random.default_rng(0).lognormal(0, 0.03, (SERIES, NIGHTS))
    series[::10, 80:] *= 0.9
    benchmark.pedantic(find_change_points, (series,), rounds=3)  # type: ignore[no-untyped-call]


@pytest.mark.skipif(not REAL.exists(), reason="shared/data has no vm-noise-data")
def test_rates_on_real_noise() -> None:
    share = rates(nights_of(pd.read_csv(REAL)), range(SHUFFLES))
    print(  # with -s
        f"\n{share['alerts']:.3f} alerts in 100 nights of a series; steps at night 80 detected "
        f"within 7 nights: {share['0.9']:.1%} of 10 %, {share['0.95']:.1%} of 5 % "
        f"({SHUFFLES} shuffles)"
    )
