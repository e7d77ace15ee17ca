"""A test that failed by a fault of the emulated CPU runs again; other tests do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.plugin.rerun import EMULATION_FAULT_PATTERNS
from harness.results.store import load
from tests.plugin.conftest import ROOT, Run

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
        events = []
        yield events
        events.append("teardown")

    def test_sign(guest, shared, record_sample):
        assert shared == [], "the module fixture must outlive the first attempt"
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


def test_patterns_are_texts_of_the_errors() -> None:
    """The errors' texts and the patterns must change together."""
    sources = set((ROOT / "harness").rglob("*.py")) - {ROOT / "harness" / "plugin" / "rerun.py"}
    texts = [path.read_text() for path in sources]
    parts = {
        "triple-fault: vCPU": 'MachineEnd("triple-fault", f"vCPU',
        "power-off (it ended while it booted)": '"it ended while it booted"',
        "SSHLate": "class SSHLate",
    }
    kernel = {"Fatal exception in interrupt"}  # a panic's text, from Linux itself
    for pattern in set(EMULATION_FAULT_PATTERNS) - kernel:
        assert any(parts.get(pattern, pattern) in text for text in texts), pattern


def test_test_after_a_host_fault_is_run_again(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    result = run(SOURCE, "--virt-no-report", "--benchmark-json=benchmark.json")
    result.assert_outcomes(passed=2, failed=1)
    (benchmark,) = json.loads((pytester.path / "benchmark.json").read_text())["benchmarks"]
    assert benchmark["stats"]["data"] == [2.0], (
        "pytest-benchmark must discard the rounds of the first attempt"
    )
    reruns = [
        line
        for line in result.outlines
        if line.startswith("  ") and "run again after a fault" in line
    ]
    assert len(reruns) == 2, "the summary must name the repeated tests"
    facts, frame = load(Path(result.outlines[-1].partition(": ")[2]))
    assert facts["outcomes"] == {"passed": 2, "failed": 1}
    (sample,) = frame[frame["metric"] == "x"].to_dict("records")
    assert (sample["value"], sample["attempt"]) == (2.0, 2), (
        "the samples of the first attempt must be excluded"
    )
