"""pytest-benchmark's options apply to samples from guests."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.plugin.conftest import Run

MEASURED = """
    import pytest

    @pytest.mark.parametrize("boot", range(2))
    def test_it(guest, record_sample, boot):
        for batch, value in enumerate((1500, 2500)):
            record_sample("exit.cpuid", value * {factor}, "ns", "lower", {{"vcpus": 1}}, boot=boot)
        record_sample("io.iops", 1000, "1/s", "higher")
        record_sample("exit.cpuid.exits_per_op", 1.0, "exits/op", "none")

    def test_with_theirs(benchmark):
        benchmark.pedantic(int, rounds=3)

    def test_of_no_benchmark():
        pass
"""


def test_benchmark_json_has_samples_with_unit_and_direction(
    run: Run, pytester: pytest.Pytester
) -> None:
    result = run(MEASURED.format(factor=1), "--benchmark-json=out.json")
    result.assert_outcomes(passed=4)
    benchmarks = json.loads(Path(pytester.path, "out.json").read_text())["benchmarks"]
    named = {one["extra_info"].get("metric", one["name"]): one for one in benchmarks}
    assert set(named) == {"exit.cpuid", "io.iops", "test_with_theirs"}
    cost = named["exit.cpuid"]
    # every boot's samples are rounds of one benchmark, in seconds
    assert cost["stats"]["data"] == pytest.approx([1.5e-6, 2.5e-6] * 2)
    assert fnmatchcase(cost["fullname"], "*::test_it::exit.cpuid[[]processes-*-vcpus=1]")
    assert (cost["extra_info"]["unit"], cost["extra_info"]["better"]) == ("ns", "lower")
    rate = named["io.iops"]
    assert rate["stats"]["ops"] == pytest.approx(1000)
    assert rate["extra_info"]["better"] == "higher"


@pytest.mark.slow
def test_benchmark_compare_fails_on_a_regression(run: Run) -> None:
    """In processes of their own: a regression is an exception from its plugin's end."""
    run(MEASURED.format(factor=1), "--benchmark-autosave").assert_outcomes(passed=4)
    fail = ["--benchmark-compare", "--benchmark-compare-fail=median:10%", "-k", "not theirs"]
    assert run(MEASURED.format(factor=1.01), *fail, apart=True).ret == 0
    worse = run(MEASURED.format(factor=1.5), *fail, apart=True)
    assert "Performance has regressed" in worse.stdout.str() + worse.stderr.str()
    assert worse.ret != 0


def test_benchmark_only_selects_tests_that_measure(run: Run) -> None:
    result = run(MEASURED.format(factor=1), "--benchmark-only", "-rs")
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(["*exit.cpuid*", "*Skipping non-benchmark*"])


def test_benchmarks_can_be_skipped(run: Run) -> None:
    result = run(MEASURED.format(factor=1), "--benchmark-skip")
    result.assert_outcomes(passed=1, skipped=3)


def test_without_options_no_benchmark_table_is_printed(run: Run) -> None:
    result = run(MEASURED.format(factor=1), "-k", "test_it")
    result.assert_outcomes(passed=2, deselected=2)
    assert "OPS" not in result.stdout.str()
