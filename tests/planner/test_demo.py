"""The demo: made-up data that look like a data centre, and a plan of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.errors import PlanError
from harness.planner.data_folder import DataFolder
from harness.planner.demo import write_demo
from harness.planner.hosts_file import read_hosts_file
from harness.planner.overhead import assumed_overhead
from harness.planner.plan_inputs import SolveOptions
from harness.planner.planned_machines import read_machines
from harness.planner.reduction import CPU, Window, reduce_trace
from harness.planner.samples import Grid
from harness.planner.solve import make_plan
from tests.planner.first_fit import first_fit

SERVERS = 100


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder, servers=SERVERS, days=14)
    return folder


def test_servers_are_idle_95_percent_of_the_time(demo: Path) -> None:
    folder, hosts = DataFolder(demo / "data"), read_hosts_file(demo / "hosts.toml")
    machines = read_machines(folder, hosts)
    grid = Grid.of(folder.description)
    (profile,) = reduce_trace(folder, machines, [Window(0, grid.count)])
    mean = np.nanmean(profile.mean[:, CPU] / machines.vcpus)
    assert mean == pytest.approx(0.05, abs=0.015)
    assert len(machines) == folder.description.machines == SERVERS
    assert len(profile.without_trace) == SERVERS - folder.description.with_trace == 1
    assert profile.planned.all()


def test_demand_has_days_weeks_and_nights(demo: Path) -> None:
    folder, hosts = DataFolder(demo / "data"), read_hosts_file(demo / "hosts.toml")
    machines = read_machines(folder, hosts)
    grid = Grid.of(folder.description)
    (profile,) = reduce_trace(folder, machines, [Window(0, grid.count)])
    of = {role: [n for n, name in enumerate(machines.names) if name.startswith(role)]
          for role in ("app", "batch")}  # fmt: skip
    hour, weekend = grid.hour_of_week % 24, grid.hour_of_week >= 120
    app = profile.demand[of["app"], CPU].sum(axis=0)
    batch = profile.demand[of["batch"], CPU].sum(axis=0)
    noon = (hour >= 11) & (hour < 15)
    assert app[noon & ~weekend].mean() > 1.5 * app[noon & weekend].mean()
    assert app[noon & ~weekend].mean() > 1.5 * app[(hour >= 22) & ~weekend].mean()
    assert batch[hour < 3].mean() > 3 * batch[noon].mean()


def test_a_seed_gives_the_same_data(demo: Path, tmp_path: Path) -> None:
    write_demo(tmp_path, servers=SERVERS, days=14)
    for path in sorted((demo / "data").rglob("*.parquet")):
        assert (tmp_path / path.relative_to(demo)).read_bytes() == path.read_bytes()
    write_demo(tmp_path, servers=SERVERS, days=14, seed=2, replace=True)
    name = "data/trace/00.parquet"
    assert (tmp_path / name).read_bytes() != (demo / name).read_bytes()


def test_the_demo_is_planned_with_everything_a_report_shows(demo: Path) -> None:
    folder, hosts = DataFolder(demo / "data"), read_hosts_file(demo / "hosts.toml")
    plan = make_plan(
        folder, hosts, assumed_overhead(), SolveOptions(), pack=first_fit, stop=lambda: False
    )
    assert plan.headline.startswith(f"{SERVERS} servers to ")
    assert plan.after.hosts < SERVERS / 5
    assert plan.before is not None
    assert plan.before.kwh > 3 * plan.after.kwh
    assert {one.kind for one in plan.advice} == {"comatose", "oversized"}
    assert plan.backtest is not None
    assert len(plan.moves) == SERVERS
    assert all(move.source.startswith("server-") for move in plan.moves)
    assert plan.after.hardware_cost


def test_other_data_are_not_replaced(demo: Path) -> None:
    with pytest.raises(PlanError, match="has imported data already") as raised:
        write_demo(demo, servers=1)
    assert "--replace" in raised.value.hint
