"""A test that fell to the emulated CPU's fault is run once more; the others are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.results.store import load
from tests.plugin.conftest import Run

CONFTEST = """
    import types
    from harness.plugin import rerun

    def pytest_runtest_protocol(item, nextitem):
        host = types.SimpleNamespace(emulated=True, tainted=False)
        return rerun.protocol(item, nextitem, lambda: host, lambda: None)
"""
SOURCE = """
    import pytest

    tries = {"sign": 0, "other": 0}

    @pytest.fixture(scope="module")
    def shared():
        made = []
        yield made
        made.append("over")

    def test_sign(guest, shared, record_sample):
        assert shared == [], "what outlives the test does not end with its first attempt"
        tries["sign"] += 1
        record_sample("x", tries["sign"], "s", "lower")
        assert tries["sign"] == 2, "triple-fault: vCPU 0"

    def test_other():
        tries["other"] += 1
        assert tries["other"] == 2, "no"

    def test_last(hypervisor):
        tries["last"] = tries.get("last", 0) + 1
        assert hypervisor.host.run(["true"]).status == 0
        assert tries["last"] == 2, "triple-fault: vCPU 0"
"""


def test_once_more(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    result = run(SOURCE, "--virt-no-report", "--benchmark-json=benchmark.json")
    result.assert_outcomes(passed=2, failed=1)
    (theirs,) = json.loads((pytester.path / "benchmark.json").read_text())["benchmarks"]
    assert theirs["stats"]["data"] == [2.0], "of pytest-benchmark's rounds neither"
    told = [
        line
        for line in result.outlines
        if line.startswith("  ") and "run again after a fault" in line
    ]
    assert len(told) == 2, "the summary names them"
    facts, frame = load(Path(result.outlines[-1].partition(": ")[2]))
    assert facts["outcomes"] == {"passed": 2, "failed": 1}
    (kept,) = frame[frame["metric"] == "x"].to_dict("records")
    assert (kept["value"], kept["attempt"]) == (2.0, 2), "the first attempt's are no figures"
