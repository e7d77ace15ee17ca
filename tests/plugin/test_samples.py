"""Samples, from record_sample to the files that the last lines name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.results.store import load
from tests.plugin.conftest import Run

MEASURED = """
    def test_it(guest, record_sample):
        for batch, value in enumerate((1.5, 2.5)):
            record_sample("exit.cpuid", value, "ns", "lower", {"vcpus": 1}, boot=3, batch=batch)
        record_sample("io.iops", 1000, "1/s", "higher", hypervisor="native")

    def test_skipped(guest, record_sample):
        import pytest
        pytest.skip("not now")
"""


def last_lines(result: pytest.RunResult) -> dict[str, Path]:
    pairs = [line.partition(": ") for line in result.outlines[-2:]]
    return {name: Path(path) for name, _, path in pairs}


def test_samples_carry_their_provenance(run: Run, pytester: pytest.Pytester) -> None:
    result = run(MEASURED, "--virt-no-report")
    result.assert_outcomes(passed=1, skipped=1)
    name, _, path = result.outlines[-1].partition(": ")
    assert name == "samples"
    assert "report: " not in result.stdout.str()
    facts, frame = load(Path(path))
    sample = frame[frame.metric == "exit.cpuid"].iloc[1].to_dict()
    assert (sample["value"], sample["unit"], sample["better"]) == (2.5, "ns", "lower")
    assert (sample["boot"], sample["batch"]) == (3, 1)
    assert json.loads(sample["parameters"]) == {"vcpus": 1}
    assert sample["test"].endswith("::test_it")
    assert (sample["hypervisor"], sample["image"]) == ("processes", "0123456789abcdef")
    assert sample["run"] == facts["run"] == Path(path).stem
    assert sample["host"] == facts["fingerprint"]
    native = frame[frame.metric == "io.iops"].iloc[0]
    assert (native.hypervisor, native.image) == ("native", "")
    used = frame[frame.metric == "host.cpu.user"].iloc[0]
    assert (used.value, used.unit, used.test, used.batch) == (12.5, "%", "", 0)
    assert facts["outcomes"] == {"passed": 1, "skipped": 1}
    assert facts["exit_status"] == 0
    assert facts["profile"] == "short"
    assert facts["command"].startswith("pytest ")
    assert facts["image"] == "0123456789abcdef"


PARAMETRIZED = """
    import pytest

    @pytest.mark.boots(short=2, full=2)
    @pytest.mark.parametrize("block", ["4k", "64k"])
    def test_latency(guest, boot, block, record_sample):
        record_sample("read.latency", {"4k": 10.0, "64k": 90.0}[block] + boot, "us", "lower")
"""


@pytest.mark.parametrize("several", [False, True])
def test_a_tests_own_parameters_identify_its_figures(run: Run, several: bool) -> None:
    """Hypervisor and boot are not among them: boots are repetitions of one figure."""
    hypervisors = ["--hypervisor=processes"] if several else []
    result = run(PARAMETRIZED, "--virt-no-report", *hypervisors)
    result.assert_outcomes(passed=8 if several else 4)
    _, frame = load(Path(result.outlines[-1].partition(": ")[2]))
    frame = frame[frame["metric"] == "read.latency"]
    tests = {str(test).partition("::")[2]: table for test, table in frame.groupby("test")}
    assert set(tests) == {"test_latency[4k]", "test_latency[64k]"}
    assert sorted(set(tests["test_latency[4k]"]["value"])) == [10.0, 11.0]
    assert frame["item"].nunique() == (8 if several else 4)


OWN_IMAGE = """
    from dataclasses import replace

    def test_it(guest, guest_factory, hypervisor, record_sample):
        image = replace(guest_factory.image, digest="5e5e5e5e5e5e5e5e")
        other = guest_factory(image=image)
        record_sample("x.default", 1, "ms", "lower")
        record_sample("x.own", 1, "ms", "lower", image=image)
        record_sample("x.host", 1, "ms", "lower", hypervisor="native", image=image)
        hypervisor.tick(0, {}, {one.name: {"cpu.user": 1.0} for one in (guest, other)})
"""


def test_samples_name_the_image_that_was_used(run: Run) -> None:
    result = run(OWN_IMAGE, "--virt-no-report")
    result.assert_outcomes(passed=1)
    facts, frame = load(Path(result.outlines[-1].partition(": ")[2]))
    images = [
        frame[frame.metric == f"x.{name}"].image.item() for name in ("default", "own", "host")
    ]
    assert images == ["0123456789abcdef", "5e5e5e5e5e5e5e5e", ""]
    used = frame[frame.metric == "guest.cpu.user"].sort_values("boot")
    assert list(used.image) == ["0123456789abcdef", "5e5e5e5e5e5e5e5e"]
    assert facts["image"] == "0123456789abcdef, 5e5e5e5e5e5e5e5e"


def test_the_last_lines_name_report_and_samples(run: Run, pytester: pytest.Pytester) -> None:
    result = run(MEASURED, "--virt-results=out", "--virt-report=pages/night.html")
    found = last_lines(result)
    assert found["report"] == pytester.path / "pages" / "night.html"
    assert "<html" in found["report"].read_text()
    assert found["samples"].is_relative_to(pytester.path / "out")
    (benchmark,) = Path(pytester.path, "out").glob("*/benchmark.json")
    assert json.loads(benchmark.read_text())["benchmarks"]
    result.stdout.fnmatch_lines(["* hypervisors and guests *"])


def test_own_parameter_and_fixture_of_a_known_name_are_no_fault(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.fixture
        def payload():
            return 7

        @pytest.mark.parametrize("boot", ["cold", "warm"])
        def test_boot(record_sample, boot, payload):
            record_sample("x.level", payload, "s", "lower", {"boot": boot})
        """,
        "--virt-no-report",
    )
    result.assert_outcomes(passed=2)
    _, frame = load(Path(result.outlines[-1].partition(": ")[2]))
    level = frame[frame.metric == "x.level"]
    assert sorted(map(json.loads, level.parameters), key=str) == [
        {"boot": "cold"},
        {"boot": "warm"},
    ]
    assert set(level.boot) == {0}


def test_a_value_that_is_not_a_number_fails_the_test(run: Run) -> None:
    result = run(
        """
        def test_it(guest, record_sample):
            record_sample("x", float("nan"), "s", "lower")
        """
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ResultError: *value must be a finite number*"])


def test_an_error_of_the_report_keeps_the_samples_and_fails_the_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> str:
        raise RuntimeError("no ink")

    monkeypatch.setattr("reports.run.to_html", broken)
    result = run(MEASURED)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["could not be written:", "  report: RuntimeError: no ink"])
    assert load(Path(result.outlines[-1].partition(": ")[2]))[1].shape[0] == 5


def test_a_store_that_cannot_be_written_is_a_setup_error(
    run: Run, pytester: pytest.Pytester
) -> None:
    (pytester.path / "file").write_text("")
    result = run(MEASURED, "--virt-results=file")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*results cannot be written to *"])


def test_a_measured_run_that_fails_is_still_reported(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.guest(cmdline="panic=boot")
        def test_it(guest, record_sample): pass
        """
    )
    result.assert_outcomes(errors=1)
    facts, frame = load(last_lines(result)["samples"])
    assert facts["outcomes"] == {"error": 1}
    assert list(facts["failures"].values()) == ["error"]
    assert not (frame.metric == "exit.cpuid").any()
