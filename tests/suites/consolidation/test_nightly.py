"""The figures of a search as series of nightly runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.__main__ import main
from harness.results.compare import compare
from harness.results.history import History, load_history
from harness.results.schema import Parameter, decode_parameters
from harness.results.selection import select_runs
from suites.consolidation.record import PointRecorder
from suites.consolidation.search import Knee
from tests.results.nightly_store import night_sample, night_writer
from tests.suites.consolidation.points import GUESTS, point

NIGHTS, STEP = 40, 30
CLONES = ("standard", "clone")
KNEE = ("knee", "knee.score", "servers_per_host", "servers_per_core")
# what a night has changed -> the figures that show it
CHANGES: Mapping[str, tuple[Mapping[str, float], set[str]]] = {
    "fewer tiles": ({"knee": 3}, set(KNEE)),
    "slower alone": ({"latency": 0.012}, {"reference"}),
    "costlier guests": ({"guest_cost": 0.03}, {"fit.guest"}),
    "costlier work": ({"demand_cost": 1.6}, {"fit.demand"}),
}


def write_night(
    store: Path,
    number: int,
    changes: Mapping[str, float],
    searches: tuple[tuple[str, str], ...] = (CLONES,),
    **facts: Any,
) -> None:
    """A run with a search for each tile and method. changes: of the first search."""
    random = np.random.default_rng(number)
    writer = night_writer(store, number, **facts)
    for at, (tile, method) in enumerate(searches):
        usual = {"knee": 4, "latency": 0.01, "guest_cost": 0.02, "demand_cost": 1.3}
        shape = {**usual, **(changes if at == 0 else {})}
        tiles = round(shape.pop("knee"))

        def noisy(shape: Mapping[str, float] = shape) -> dict[str, float]:
            return {name: value * random.lognormal(0, 0.005) for name, value in shape.items()}

        def record(
            metric: str,
            value: float,
            unit: str,
            better: str,
            parameters: Mapping[str, Parameter],
            *,
            batch: int,
        ) -> None:
            about = {"unit": unit, "better": better, "parameters": parameters, "batch": batch}
            writer.add(night_sample(writer, number, metric=metric, value=value, **about))

        outcomes = [(n, "pass" if n <= tiles else "fail") for n in (1, 1, 1, 2, tiles, tiles + 1)]
        points = [point(n, outcome, **noisy()) for n, outcome in outcomes]  # type: ignore[arg-type]
        recorder = PointRecorder(record, experiment(points, tile, method))  # type: ignore[arg-type]
        recorder.reference(points[:3])
        recorder.knee(Knee(outcomes), tiles)  # type: ignore[arg-type]
        recorder.points()
    writer.close()


def experiment(points: list[Any], tile: str, method: str) -> Any:
    """What PointRecorder needs of an Experiment."""
    guests = [SimpleNamespace(name=name, percentile=99.0) for name in GUESTS]
    own_tile = SimpleNamespace(name=tile, version=1, guests=guests)
    deployment = SimpleNamespace(tile=own_tile, method=method, cpus=range(16))
    host = SimpleNamespace(facts=SimpleNamespace(cores=len))
    return SimpleNamespace(points=points, deployment=deployment, host=host)


def write_nights(
    store: Path, changes_of: Callable[[int], Mapping[str, float]], **options: Any
) -> History:
    for number in range(NIGHTS):
        write_night(store, number, changes_of(number), **options)
    return load_history(store)


def regressed(table: pd.DataFrame) -> set[str]:
    names = table.loc[table["verdict"] == "regressed", "metric"]
    return set(names.str.removeprefix("consolidation."))


@pytest.mark.parametrize("name", CHANGES)
def test_lasting_change_is_a_regression(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    changes, metrics = CHANGES[name]
    history = write_nights(tmp_path, lambda night: changes if night >= STEP else {})
    assert regressed(history.series) == metrics
    assert history.counts["inconclusive"] == 0
    changed = history.changes[history.changes["effect"] > 0]
    assert set(changed["run"]) == {history.runs[STEP]["run"]}
    assert main(["track", "--results", str(tmp_path)]) == 3
    output = capsys.readouterr().out
    assert all(f"consolidation.{metric}" in output for metric in metrics)


def test_reference_has_the_median_and_p99_of_each_guest(tmp_path: Path) -> None:
    changes = {"latency": 0.012}
    history = write_nights(tmp_path, lambda night: changes if night >= STEP else {})
    slower = history.series[history.series["verdict"] == "regressed"]
    parameters = [decode_parameters(text) for text in slower["parameters"]]
    found = {(one["guest"], one["percentile"]) for one in parameters}
    assert found == {(guest, percentile) for guest in GUESTS for percentile in (50.0, 99.0)}


def test_one_night_with_fewer_tiles_is_no_regression(tmp_path: Path) -> None:
    history = write_nights(tmp_path, lambda night: {"knee": 3} if night == STEP else {})
    assert history.counts["regressed"] == 0
    verdicts = dict(zip(history.series["metric"], history.series["verdict"], strict=True))
    assert {verdicts[f"consolidation.{metric}"] for metric in KNEE} == {"pass"}


def test_tiles_and_methods_are_series_of_their_own(tmp_path: Path) -> None:
    searches = (("shop", "clone"), ("shop", "boot"), CLONES)
    history = write_nights(
        tmp_path, lambda night: {"knee": 3} if night >= STEP else {}, searches=searches
    )
    knees = history.series[history.series["metric"] == "consolidation.knee"]
    verdicts = {
        (str(about["tile"]), str(about["deploy"])): verdict
        for about, verdict in zip(
            map(decode_parameters, knees["parameters"]), knees["verdict"], strict=True
        )
    }
    assert verdicts == {
        ("shop v1", "clone"): "regressed",
        ("shop v1", "boot"): "pass",
        ("standard v1", "clone"): "pass",
    }


@pytest.mark.parametrize("name", CHANGES)
def test_comparison_shows_the_change(tmp_path: Path, name: str) -> None:
    changes, metrics = CHANGES[name]
    commits = "a" * 40, "b" * 40
    for number in range(12):
        late = number >= 6
        write_night(tmp_path, number, changes if late else {}, commit=commits[late])
    base, new = (select_runs(tmp_path, one) for one in commits)
    assert regressed(compare(base, new).table) == metrics
    assert main(["compare", *commits, "--results", str(tmp_path)]) == 3
    base, new = (select_runs(tmp_path, one) for one in ("previous", "latest"))
    pair = compare(base, new).table
    assert set(pair["verdict"]) == {"inconclusive"}, "one run on each side says too little"
