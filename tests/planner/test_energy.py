"""Power curves: against a second implementation, and derived reproducibly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import PlanError
from harness.planner.data.derive_power_curves import derive, main
from harness.planner.energy import LOADS, TABLE, PowerCurve, default_curves

NO_NUMBER = ["NC", "322 278"]  # results that were not compliant, and a misprint
SOURCE = Path(__file__).parent / "data" / "specpower-curve-ends.csv"
WATTS = st.lists(st.floats(0, 2000), min_size=11, max_size=11).map(tuple)


def interpolated(watts: tuple[float, ...], utilization: float) -> float:
    """The second implementation: the straight line between the two points around."""
    if utilization >= 1:
        return watts[10]
    left = int(max(utilization, 0.0) * 10)
    share = max(utilization, 0.0) * 10 - left
    return (1 - share) * watts[left] + share * watts[left + 1]


@given(watts=WATTS, utilization=st.floats(-0.5, 1.5))
def test_power_is_linear_between_the_points(watts: tuple[float, ...], utilization: float) -> None:
    power = float(PowerCurve(watts, "given").at(np.array([utilization]))[0])
    assert power == pytest.approx(interpolated(watts, utilization), abs=1e-6)


@given(watts=WATTS, factor=st.floats(0.1, 3), utilization=st.floats(0, 1))
def test_idle_factor_changes_idle_and_not_full_power(
    watts: tuple[float, ...], factor: float, utilization: float
) -> None:
    curve, scaled = PowerCurve(watts, "given"), PowerCurve(watts, "given").scaled_idle(factor)
    assert scaled.watts[0] == pytest.approx(factor * watts[0])
    assert scaled.watts[10] == pytest.approx(watts[10])
    added = float(scaled.at(np.array(utilization)) - curve.at(np.array(utilization)))
    assert added == pytest.approx((factor - 1) * watts[0] * (1 - utilization), abs=1e-6)


def test_table_of_curves_is_derived_from_the_published_results(tmp_path: Path) -> None:
    assert main([str(SOURCE), "--out", str(tmp_path / "curves.csv")]) == 0
    assert (tmp_path / "curves.csv").read_text() == TABLE.read_text()


@pytest.mark.parametrize(
    ("name", "idle", "full"),
    [("2-socket-2008", 147, 254), ("2-socket-2012", 56.2, 254), ("2-socket-2021", 110, 468)],
)
def test_ends_are_the_known_medians(name: str, idle: float, full: float) -> None:
    watts = default_curves()[name].watts
    assert watts[0] == pytest.approx(idle, abs=0.5)
    assert watts[10] == pytest.approx(full, abs=0.5)


def test_curves_rise_and_have_the_mean_that_was_published() -> None:
    """The mean of the watts over all loads, from an overall figure that nothing else uses."""
    results = pd.read_csv(SOURCE, thousands=",", na_values=NO_NUMBER)
    year = pd.to_datetime(results["Date Submitted"], format="%b %d, %Y").dt.year
    known = results[(year == 2019) & (results["Chips"] == 2) & (results["Nodes"] == 1)].dropna(
        subset=["ssj_ops @ 100%"]
    )
    operations = known["ssj_ops @ 100%"] * sum(LOADS) / 100
    published = (operations / known["Result (Overall ssj_ops/watt)"] / len(LOADS)).median()
    assert np.mean(default_curves()["2-socket-2019"].watts) == pytest.approx(published, rel=0.05)
    for curve in default_curves().values():
        assert (np.diff(curve.watts) > 0).all()


def test_a_server_with_one_missing_figure_counts_nowhere(tmp_path: Path) -> None:
    lines = SOURCE.read_text().splitlines()
    broken = [lines[0], *(line.replace('"Dec 11, 2007"', "unknown") for line in lines[1:])]
    (tmp_path / "broken.csv").write_text("\n".join(broken))
    full, less = derive(SOURCE).set_index("name"), derive(tmp_path / "broken.csv").set_index("name")
    assert less["results"].sum() < full["results"].sum()
    assert less.loc[["2-socket-2021"]].equals(full.loc[["2-socket-2021"]])


def test_a_file_without_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(PlanError, match=r"has no SPECpower results") as raised:
        derive(tmp_path / "other.csv")
    assert "specpower-curve-ends.csv" in raised.value.hint
