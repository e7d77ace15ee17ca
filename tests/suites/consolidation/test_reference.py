"""The reference runs: which of them set the limits. No guest runs here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from suites.consolidation.experiment import PHASES, REFERENCE_REPEATS, Experiment
from suites.consolidation.judge import Outcome
from suites.consolidation.tile import TileGuest
from tests.suites.consolidation.points import GUESTS, point

RUNS = 3


class Prepared(Experiment):
    """Its measurements have these latencies (p99, seconds), one after the other."""

    latencies: list[float]

    def measure(self, tiles: int, *, fresh: bool = False, extra: float = 0.0) -> Outcome:
        assert self.limits == {}
        self.points.append(point(tiles, latency=self.latencies.pop(0)))
        return "pass"

    @property
    def host(self) -> Any:
        return SimpleNamespace(emulated=True)


def prepared(latencies: list[float], tmp_path: Path) -> Prepared:
    values: dict[str, Any] = {
        "server": "web", "memory": 128, "rate": 200.0, "arrivals": "poisson", "work": 0,
        "percentile": 99.0, "floor": 0.01, "limit": 0.0,
    }  # fmt: skip
    members = [SimpleNamespace(role=TileGuest(name=name, **values)) for name in GUESTS]
    deployment: Any = SimpleNamespace(method="clone", members=members)
    one = Prepared(deployment, SimpleNamespace(), PHASES["short"], 1, print, tmp_path)  # type: ignore[arg-type]
    one.latencies = latencies
    return one


def test_runs_that_agree_are_the_reference(tmp_path: Path) -> None:
    one = prepared([0.010, 0.012, 0.011], tmp_path)
    assert one.measure_reference(RUNS) == ""
    assert one.limits == pytest.approx({"web": 0.036, "cache": 0.036})
    assert one.reference == one.points
    assert [each.verdict.outcome for each in one.points] == ["pass"] * RUNS


def test_a_later_run_replaces_one_that_differs(tmp_path: Path) -> None:
    one = prepared([0.050, 0.012, 0.011, 0.010], tmp_path)
    assert one.measure_reference(RUNS) == ""
    assert one.limits == pytest.approx({"web": 0.036, "cache": 0.036})
    assert one.reference == one.points[1:]
    assert [each.verdict.outcome for each in one.points] == ["invalid", *["pass"] * RUNS]
    assert one.points[0].verdict.reasons


def test_runs_that_never_agree_are_no_reference(tmp_path: Path) -> None:
    one = prepared([0.01, 0.05, 0.01, 0.01, 0.05], tmp_path)
    problem = one.measure_reference(RUNS)
    assert "p99 of 0.01, 0.01, 0.05 s in the reference runs differs" in problem
    assert len(one.points) == RUNS + REFERENCE_REPEATS
    assert one.reference == []
    assert one.limits == {}
