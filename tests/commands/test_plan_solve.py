"""`plan solve` and `plan demo` on the command line."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.planner.interruption import run_interruptible
from harness.planner.plan_file import read_plan
from tests.planner.data_folders import write_data
from tests.planner.test_overhead import KNEE, write_run
from tests.planner.test_reduction import random_machines

HOSTS = """\
[host.new]
cores = 10
memory_gib = 100

[host.old]
cores = 8
memory_gib = 16

[today]
type = "old"
servers = "machines"
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data(tmp_path / "data", random_machines(12, 200), moments=200, step=3600)
    (tmp_path / "hosts.toml").write_text(HOSTS)
    return tmp_path


def solve(data: Path, *options: str) -> int:
    files = ["--hosts", str(data / "hosts.toml"), "--out", str(data / "plan.json")]
    return main(["plan", "solve", str(data / "data"), *files, *options])


def test_solve_prints_the_headline_and_writes_the_plan(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--what-if", "grow=1.2", "--what-if", "host=old", "--burst", "1.2", "--spare", "1")
    assert solve(data, *options, "--csv", str(data / "csv")) == 0
    plan = read_plan(data / "plan.json")
    printed = capsys.readouterr().out
    for text in (
        plan.headline,
        "The target utilization of 70% is assumed.",
        "today",
        "not given",
        "No plan has fewer",
        "Backtest: planned on 6.2 days",
        "grow=1.2: ",
        "host=old: ",
        str(data / "csv" / "moves.csv"),
    ):
        assert text in printed
    assert len((data / "csv" / "machines.csv").read_text().splitlines()) == 13


def test_options_reach_the_plan(data: Path) -> None:
    options = ("--utilization", "0.5", "--pue", "1.1", "--price", "0.4", "--idle-factor", "1.5")
    assert solve(data, *options) == 0
    rows = {row.name: row for row in read_plan(data / "plan.json").assumptions}
    assert rows["target utilization of CPUs"].value == "50%"
    assert rows["PUE"].value == "1.1"
    assert rows["price of energy"].value == "0.4 USD/kWh"
    assert rows["idle watts"].value == "1.5 times the curve"
    assert {rows[name].source for name in ("PUE", "price of energy", "idle watts")} == {"given"}


def test_a_measured_knee_is_used(data: Path) -> None:
    write_run(data / "results", KNEE)
    assert solve(data, "--knee", "latest", "--results", str(data / "results")) == 0
    plan = read_plan(data / "plan.json")
    rows = {row.name: row for row in plan.assumptions}
    assert rows["target utilization of CPUs"].value == "58%"
    assert not any("assumed" in banner for banner in plan.banners)


def test_an_emulated_knee_needs_force(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(data / "results", KNEE, emulated=True)
    knee = ("--knee", "latest", "--results", str(data / "results"))
    assert solve(data, *knee) == 4
    assert "hint: name a run on hardware, or add --force" in capsys.readouterr().err
    assert not (data / "plan.json").exists()
    assert solve(data, *knee, "--force") == 0
    assert "Do not buy hardware by this plan." in read_plan(data / "plan.json").banners[0]


@pytest.mark.parametrize(
    ("options", "cause", "hint"),
    [
        (("--what-if", "grow=x"), "--what-if grow=x", "give a number"),
        (("--what-if", "host=best"), "no type of host 'best'", "use new, old"),
        (("--use", "existing"), "no type of host is existing", "add a type to hosts.toml"),
        (("--csv", "/dev/null/csv"), "cannot be written", "name another folder"),
    ],
)
def test_bad_input_ends_with_status_4(
    data: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    cause: str,
    hint: str,
) -> None:
    assert solve(data, *options) == 4
    error = capsys.readouterr().err
    assert cause in error
    assert hint in error.partition("hint: ")[2]


def test_files_that_cannot_be_read_end_with_status_4(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "hosts.toml").write_text("[host.new]\ncores = -1\n")
    assert solve(data) == 4
    assert "host.new.cores = -1" in capsys.readouterr().err
    (data / "hosts.toml").write_text(HOSTS)
    (data / "data" / "import.json").unlink()
    assert solve(data) == 4
    assert "is no data folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [("--utilization", "1.2"), ("--pue", "nan"), ("--spare", "-1"), ("--seconds", "x"),
     ("--use", "all")],
)  # fmt: skip
def test_values_out_of_range_are_usage_errors(data: Path, options: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as raised:
        solve(data, *options)
    assert raised.value.code == 2


def test_the_demo_is_written_and_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "demo"), "--servers", "40"]
    assert main(["plan", "demo", *out]) == 0
    plan = read_plan(tmp_path / "demo" / "plan.json")
    assert plan.headline.startswith("40 servers to ")
    assert plan.headline in capsys.readouterr().out
    assert {"grow=1.2", "fail=rack"} < {one.name for one in plan.variants}
    assert plan.headline in (tmp_path / "demo" / "plan.html").read_text(encoding="utf-8")
    assert (tmp_path / "demo" / "plan-moves.csv").exists()
    assert main(["plan", "demo", *out]) == 4  # it replaces nothing unasked
    assert "add --replace" in capsys.readouterr().err


def interrupt_main() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_ctrl_c_asks_the_work_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    def work(stop: Callable[[], bool]) -> str:
        deadline = time.monotonic() + 10
        threading.Timer(0.05, interrupt_main).start()
        while not stop() and time.monotonic() < deadline:
            time.sleep(0.01)
        return "best so far" if stop() else "never asked"

    assert run_interruptible(work) == "best so far"
    assert "Interrupted" in capsys.readouterr().err


def test_a_second_ctrl_c_ends_the_work() -> None:
    finish = threading.Event()

    def work(stop: Callable[[], bool]) -> bool:
        for _ in range(2):
            threading.Timer(0.05, interrupt_main).start()
            time.sleep(0.3)
        return finish.wait(10)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_interruptible(work)
    finish.set()
    assert signal.getsignal(signal.SIGINT) is before


def test_errors_of_the_work_are_raised() -> None:
    def work(stop: Callable[[], bool]) -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        run_interruptible(work)
