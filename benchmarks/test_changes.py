"""The change detector: how long it takes, and what it finds and what it calls on real noise.

The noise: 92 series of 120 nights of Azure's vm-noise-data (CC-BY 4.0), beside the project in
shared/data. The constants of harness/results/changes.py were chosen on it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.results.changes import watch
from tests.results.test_changes import REAL, nights_of, rates

SERIES, NIGHTS = 10_000, 120
SHUFFLES = 40


def test_ten_thousand_series(benchmark: BenchmarkFixture) -> None:
    made = np.random.default_rng(0).lognormal(0, 0.03, (SERIES, NIGHTS))
    made[::10, 80:] *= 0.9
    benchmark.pedantic(watch, (made,), rounds=3)  # type: ignore[no-untyped-call]


@pytest.mark.skipif(not REAL.exists(), reason="the real noise does not lie beside the project")
def test_rates_on_real_noise() -> None:
    found = rates(nights_of(pd.read_csv(REAL)), range(SHUFFLES))
    print(  # with -s
        f"\n{found['alerts']:.3f} alerts in 100 nights of a series; steps at night 80 found within "
        f"7 nights: {found['0.9']:.1%} of 10 %, {found['0.95']:.1%} of 5 % ({SHUFFLES} shuffles)"
    )
