from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.stats import Stats

from harness.errors import ResultError
from harness.results import load
from harness.results.exchange import benchmark_json
from tests.results.synthetic import write_run


def test_pytest_benchmark_compares_two_runs(tmp_path: Path) -> None:
    files = [
        benchmark_json.write(write_run(tmp_path / "store", seed=seed), tmp_path / f"000{seed}.json")
        for seed in (1, 2)
    ]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", *map(str, files)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert "Failed to load" not in ended.stderr
    assert "benchmark 'boot.ready': 2 tests" in ended.stdout
    assert "benchmark 'exit.cpuid': 2 tests" in ended.stdout
    assert "exits_per_op" not in ended.stdout
    assert "benchmark 'io.iops': " in ended.stdout


def test_benchmark_compare_accepts_the_file(tmp_path: Path) -> None:
    path = benchmark_json.write(write_run(tmp_path / "store"), tmp_path / "0001_run.json")
    (tmp_path / "test_it.py").write_text("def test_it(benchmark):\n    benchmark(int)\n")
    quick = ["--benchmark-max-time=0.01", "--benchmark-min-rounds=1", "-p", "no:hypervisor"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *quick, f"--benchmark-compare={path}", "-q"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"Comparing against benchmarks from: {path}" in ended.stdout + ended.stderr


def test_only_times_and_rates_become_seconds(tmp_path: Path) -> None:
    run = write_run(tmp_path, boots=3)
    facts, frame = load(run)
    document = benchmark_json.convert(facts, frame)
    by_metric = {bench["extra_info"]["metric"]: bench for bench in document["benchmarks"]}
    raw = frame[frame["metric"] == "exit.cpuid"]["value"]
    assert by_metric["exit.cpuid"]["stats"]["data"] == pytest.approx((raw * 1e-9).tolist())
    assert by_metric["exit.cpuid"]["extra_info"]["unit"] == "ns"
    # each boot is a test; together they are the rounds of one benchmark
    assert by_metric["boot.ready"]["stats"]["rounds"] == 3
    assert "test_made_up::boot.ready[kvm-emulated-" in by_metric["boot.ready"]["fullname"]
    assert by_metric["exit.cpuid"]["extra_info"]["boots"] == 3
    latency = frame[(frame["metric"] == "io.clat.p99")]["value"].max()
    seconds = [
        bench["stats"]["max"]
        for bench in document["benchmarks"]
        if bench["extra_info"]["metric"] == "io.clat.p99"
    ]
    assert max(seconds) == pytest.approx(latency * 1e-6)
    rate = frame[frame["metric"] == "io.iops"]["value"]
    rates = [
        bench["stats"]
        for bench in document["benchmarks"]
        if bench["extra_info"]["metric"] == "io.iops"
    ]
    assert min(one["min"] for one in rates) == pytest.approx(1 / rate.max())
    assert by_metric["io.iops"]["extra_info"]["better"] == "higher"
    left_out = {"exit.cpuid.cycles", "exit.cpuid.exits_per_op", "host.cpu.idle"}
    assert not left_out & set(by_metric)
    assert left_out <= {other["metric"] for other in document["other_metrics"]}
    assert document["machine_info"]["emulated"] is True
    json.dumps(document, allow_nan=False)


def test_statistics_match_pytest_benchmark(tmp_path: Path) -> None:
    facts, frame = load(write_run(tmp_path, parts="exits", boots=3))
    for bench in benchmark_json.convert(facts, frame)["benchmarks"]:
        theirs: Any = Stats()  # type: ignore[no-untyped-call]
        for value in bench["stats"]["data"]:
            theirs.update(value)
        mine = bench["stats"]
        for name in ("min", "max", "mean", "median", "stddev", "rounds", "total", "ops"):
            assert mine[name] == pytest.approx(getattr(theirs, name)), name
        for name in ("q1", "q3"):  # quartiles have several definitions; they must be neighbours
            assert mine[name] == pytest.approx(getattr(theirs, name), rel=0.01), name
        assert set(Stats.fields) <= set(mine)


def test_name_keeps_backends_apart(tmp_path: Path) -> None:
    names = []
    for backend in ("vmx", "emulated"):
        facts, frame = load(write_run(tmp_path / backend, parts="boot", backend=backend))
        names += [bench["fullname"] for bench in benchmark_json.convert(facts, frame)["benchmarks"]]
    assert len(names) == len(set(names)) == 8


def test_unwritable_path_is_an_error(tmp_path: Path) -> None:
    run = write_run(tmp_path / "store", parts="boot")
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written"):
        benchmark_json.write(run, tmp_path / "file" / "out.json")
