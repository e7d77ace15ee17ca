"""Export and import of runs by the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from harness.__main__ import main
from harness.commands import exchange as commands
from harness.results import exchange, load, runs
from harness.results.exchange.imported_run import ImportSource
from harness.results.exchange.pytest_benchmark import read
from harness.results.schema import COLUMNS, SCHEMA_VERSION
from harness.results.store import boot_medians
from tests.results.synthetic import Synthetic, facts, write_run

Harness = Callable[..., tuple[int, str, str]]


@pytest.fixture
def harness(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Harness:
    """`harness("export", ...)`: run `python -m harness`; return status, stdout and stderr.

    store: default tmp_path/store.
    """

    def run(*words: object, store: object = tmp_path / "store") -> tuple[int, str, str]:
        status = main([*map(str, words), f"--results={store}"])
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    return write_run(tmp_path / "store", boots=3, facts={"profile": "full"})


def test_command_offers_all_formats() -> None:
    assert set(commands.EXPORTS) == set(exchange.EXPORTS)
    assert set(commands.IMPORTS) == set(exchange.IMPORTS)


# -- export --------------------------------------------------------------------------------------


def test_csv_has_every_column(harness: Harness, run_file: Path) -> None:
    status, out, _ = harness("export", "latest", "--format=csv")
    assert status == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    _, frame = load(run_file)
    assert tuple(rows[0]) == COLUMNS
    assert [float(row["value"]) for row in rows] == frame["value"].tolist()
    assert [json.loads(row["parameters"]) for row in rows] == [
        json.loads(text) for text in frame["parameters"]
    ]
    assert datetime.fromisoformat(rows[0]["time"]) == frame["time"].iloc[0]


def test_csv_has_no_formulas(tmp_path: Path) -> None:
    path = write_run(tmp_path, parts="boot", test='=HYPERLINK("x")')
    rows = list(csv.DictReader(io.StringIO(exchange.export_run(path, "csv"))))
    assert all(row["test"].startswith("'=HYPERLINK") for row in rows)
    assert all(float(row["value"]) > 0 for row in rows)


def test_json_round_trip_restores_the_run(tmp_path: Path, harness: Harness, run_file: Path) -> None:
    file = tmp_path / "run.json"
    assert harness("export", run_file.stem, "--format=json", "-o", file) == (0, "", "")
    status, out, _ = harness("import", file, "--format=json", store=tmp_path / "other")
    assert status == 0
    copy = Path(out.strip())
    assert copy.stem == run_file.stem
    facts_there, frame_there = load(copy)
    facts_here, frame_here = load(run_file)
    assert facts_there == facts_here
    assert frame_there.equals(frame_here)
    status, _, err = harness("import", file, "--format=json")
    assert status == 1
    assert f"has the run {run_file.stem} already" in err


def test_json_of_older_schema_is_imported(tmp_path: Path, harness: Harness, run_file: Path) -> None:
    document = json.loads(exchange.export_run(run_file, "json"))
    for row in document["samples"]:
        del row["attempt"]
    file = tmp_path / "old.json"
    file.write_text(json.dumps({**document, "version": 1}))
    status, out, _ = harness("import", file, "--format=json", store=tmp_path / "other")
    assert status == 0
    assert set(load(Path(out.strip()))[1]["attempt"]) == {1}


def test_benchmark_json_has_the_expected_keys(harness: Harness, run_file: Path) -> None:
    _, out, _ = harness("export", "latest", "--format=benchmark")
    assert {"machine_info", "commit_info", "benchmarks"} <= set(json.loads(out))


def test_junit_has_figures_without_outcomes(harness: Harness, run_file: Path) -> None:
    _, out, _ = harness("export", "latest", "--format=junit")
    (suite,) = ET.fromstring(out.encode())  # noqa: S314 - our own
    assert "failures" not in suite.attrib
    known = {p.attrib["name"]: p.attrib["value"] for p in suite.findall("properties/property")}
    assert known["run"] == run_file.stem
    assert known["outcomes.passed"] == "9"
    assert "A test case has no outcome" in known["note"]
    cases = suite.findall("testcase")
    assert int(suite.attrib["tests"]) == len(cases) == 3
    assert {case.attrib["classname"] for case in cases} == {"suites.synthetic"}
    assert cases[1].attrib["name"] == "test_made_up[1]"
    properties = {
        p.attrib["name"]: p.attrib["value"] for p in cases[1].findall("properties/property")
    }
    medians = boot_medians([run_file])
    mine = medians[(medians["metric"] == "boot.ready") & (medians["boot"] == 1)]
    assert properties["boot.ready (kvm, memory=256, vcpus=1)"] == f"{mine['value'].item():.6g} s"
    assert not any(name.startswith("host.") for name in properties)


def test_junit_replaces_characters_invalid_in_xml(tmp_path: Path) -> None:
    path = write_run(tmp_path, parts="boot", test="made.py::test_<&\x00\x1b[1m\"'>")
    (suite,) = ET.fromstring(exchange.export_run(path, "junit").encode())  # noqa: S314 - our own
    assert suite[1].attrib["name"] == "test_<&\ufffd\ufffd[1m\"'>[0]"


def test_run_without_samples_is_exported(tmp_path: Path) -> None:
    path = write_run(tmp_path, parts="boot", boots=0)
    for form in exchange.EXPORTS:
        assert exchange.export_run(path, form)


def test_export_requires_one_run(tmp_path: Path, harness: Harness, run_file: Path) -> None:
    write_run(tmp_path / "store", parts="boot")
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    status, _, err = harness("export", day, "--format=csv")
    assert (status, "matches 2 runs" in err) == (1, True)
    status, _, err = harness("export", "latest", "--format=csv", "-o", run_file / "x.csv")
    assert (status, "cannot be written" in err) == (1, True)


# -- import: pytest-benchmark---------------------------------------------------------------------

BENCHMARKS = """
import pytest

@pytest.mark.parametrize(("n", "how"), [(1, "a"), (2, None)])
def test_sum(benchmark, n, how):
    benchmark(sum, range(n))

@pytest.mark.benchmark(group="lengths")
def test_len(benchmark):
    benchmark(len, "x")
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """A file written by pytest-benchmark, with or without rounds."""
    files: dict[bool, Path] = {}

    def measure(rounds: bool) -> Path:
        if rounds not in files:
            folder = tmp_path_factory.mktemp("benchmarks")
            (folder / "test_it.py").write_text(BENCHMARKS)
            quick = ["--benchmark-max-time=0.001", "--benchmark-min-rounds=3"]
            output = "--benchmark-json=rounds.json" if rounds else "--benchmark-save=rounds"
            subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-p", "no:hypervisor", *quick, output],
                cwd=folder,
                check=True,
                capture_output=True,
                timeout=60,
            )
            (files[rounds],) = folder.rglob("*rounds.json")
        return files[rounds]

    return measure


def test_benchmarks_with_rounds_are_imported(
    harness: Harness, measured: Callable[[bool], Path], tmp_path: Path
) -> None:
    file = measured(True)
    document = json.loads(file.read_text())
    status, out, _ = harness("import", file, "--format=benchmark")
    assert status == 0
    known, frame = load(Path(out.strip()))
    assert known["notes"] == [f"imported from rounds.json (pytest-benchmark {document['version']})"]
    assert known["start"] == document["datetime"]
    assert known["run"].startswith(
        datetime.fromisoformat(document["datetime"]).strftime("%Y%m%dT%H")
    )
    assert known["hostname"] == document["machine_info"]["node"]
    assert known["kernel"] == document["machine_info"]["release"]
    assert known["cpus"] == document["machine_info"]["cpu"]["count"]
    assert "hypervisor" not in known
    for one in document["benchmarks"]:
        mine = frame[frame["test"] == one["fullname"]]
        assert mine["value"].tolist() == one["stats"]["data"]
        assert mine["batch"].tolist() == list(range(one["stats"]["rounds"]))
        assert set(mine["unit"]) == {"s"}
        assert set(mine["better"]) == {"lower"}
        assert set(mine["metric"]) == {f"benchmark.{one['name'].partition('[')[0]}"}
    assert set(frame["suite"]) == {"benchmark", "lengths"}
    assert set(frame["parameters"]) == {'{"how": "a", "n": 1}', '{"how": "null", "n": 2}', "{}"}
    status, _, err = harness("import", file, "--format=benchmark")
    assert (status, "already" in err) == (1, True)


def test_benchmarks_without_rounds_are_imported_as_medians(
    harness: Harness, measured: Callable[[bool], Path]
) -> None:
    file = measured(False)
    document = json.loads(file.read_text())
    status, out, _ = harness("import", file, "--format=benchmark", "--hypervisor=kvm")
    assert status == 0
    known, frame = load(Path(out.strip()))
    assert known["hypervisor"] == "kvm"
    assert set(frame["hypervisor"]) == {"kvm"}
    assert "3 of 3 benchmarks have no rounds" in known["notes"][1]
    for one in document["benchmarks"]:
        mine = frame[frame["test"] == one["fullname"]].set_index("unit")
        assert mine["value"].to_dict() == {
            "s": one["stats"]["median"],
            "rounds": one["stats"]["rounds"],
        }
        assert json.loads(mine["parameters"]["s"])["statistic"] == "median"


def test_exported_benchmark_json_is_imported(tmp_path: Path, run_file: Path) -> None:
    file = tmp_path / "ours.json"
    file.write_text(exchange.export_run(run_file, "benchmark"))
    _, frame = load(exchange.import_run(tmp_path / "other", file, "benchmark"))
    assert frame["metric"].str.startswith("benchmark.").all()
    assert len(frame) > 100


# -- import: kvm-unit-tests ----------------------------------------------------------------------

RUN_TESTS = (
    "\x1b[32mPASS\x1b[0m apic-split (56 tests, 1 skipped)\r\n"
    "\x1b[32mPASS\x1b[0m smptest (1 tests)\n"
    "\x1b[32mPASS\x1b[0m vmexit_cpuid \n"
    "\x1b[31mFAIL\x1b[0m pmu (36 tests, 2 unexpected failures, 1 expected failures, 3 skipped)\n"
    "\x1b[31mFAIL\x1b[0m emulator (timeout; duration=90s)\n"
    "\x1b[33mSKIP\x1b[0m pku (test marked as manual run only)\n"
)
VMEXIT = (
    "timeout -k 1s --foreground 90s qemu-system-x86_64 -kernel x86/vmexit.flat\n"
    "enabling apic\npaging enabled\ncr0 = 80010011\n"
    "cpuid 1286\ninl_from_qemu 14012\nmmio-no-eventfd:pci-mem 15017\ncpuid 1290\n"
    "x2apic_self_ipi (skipped)\n"
)


def _imported(tmp_path: Path, text: str, **more: str) -> tuple[Any, Any]:
    file = tmp_path / "output.log"
    file.write_text(text, newline="")
    os.utime(file, (1_750_000_000, 1_750_000_000))
    return load(exchange.import_run(tmp_path / "store", file, "kvm-unit-tests", **more))


def test_run_tests_output_is_imported(tmp_path: Path) -> None:
    known, frame = _imported(tmp_path, RUN_TESTS)
    assert known["outcomes"] == {"passed": 3, "failed": 2, "skipped": 1}
    assert known["notes"][0].startswith("imported from output.log (kvm-unit-tests)")
    assert known["notes"][1:] == [
        "failed: pmu (36 tests, 2 unexpected failures, 1 expected failures, 3 skipped)",
        "failed: emulator (timeout; duration=90s)",
    ]
    assert known["hypervisor"] == "qemu"
    assert known["run"].startswith("20250615T")
    pmu = frame[frame["test"] == "kvm-unit-tests::pmu"].set_index("metric")["value"].to_dict()
    assert pmu == {
        "kvm_unit_tests.tests": 36,
        "kvm_unit_tests.failures": 2,
        "kvm_unit_tests.expected_failures": 1,
        "kvm_unit_tests.skipped": 3,
    }
    assert set(frame["test"]) == {f"kvm-unit-tests::{n}" for n in ("apic-split", "smptest", "pmu")}


def test_vmexit_log_is_imported(tmp_path: Path) -> None:
    known, frame = _imported(tmp_path, VMEXIT, hypervisor="kvm")
    assert known["outcomes"] == {}
    rows = frame[["metric", "value", "unit", "better", "hypervisor", "batch"]].to_numpy().tolist()
    assert rows == [
        ["kvm_unit_tests.cpuid", 1286, "cycles", "lower", "kvm", 0],
        ["kvm_unit_tests.inl_from_qemu", 14012, "cycles", "lower", "kvm", 0],
        ["kvm_unit_tests.mmio-no-eventfd:pci-mem", 15017, "cycles", "lower", "kvm", 0],
        ["kvm_unit_tests.cpuid", 1290, "cycles", "lower", "kvm", 1],
    ]


# -- import: malformed files ---------------------------------------------------------------------


def _told(**more: Any) -> str:
    run = "20260102T030405Z-abcdef"
    sample = next(Synthetic(run).boot())
    row = {**sample.row(), "time": sample.time.isoformat(), "parameters": {}}
    whole = {"format": "pytest-hypervisor", "version": SCHEMA_VERSION, "facts": facts(run=run)}
    return json.dumps({**whole, "samples": [{**row, **more.pop("row", {})}], **more})


_ONE = {"name": "t", "fullname": "a.py::t", "params": None, "stats": {"median": 1, "rounds": 3}}


def _benchmark(**more: Any) -> str:
    return json.dumps({"datetime": "2026-01-02T03:04:05", "benchmarks": [_ONE], **more})


@pytest.mark.parametrize(
    ("form", "text", "cause"),
    [
        ("json", "", "no JSON"),
        ("json", "[]", "no JSON object"),
        ("json", "{}", "no format and version"),
        ("json", _told(version="2"), "no format and version"),
        ("json", _told(version=SCHEMA_VERSION + 1), "reads up to"),
        ("json", _told(facts=None), "facts have no run id"),
        ("json", _told(samples={}), "no samples"),
        ("json", _told(samples=[3]), "malformed"),
        ("json", _told(row={"run": "20260102T030405Z-00beef"}), "not '20260102T030405Z-abcdef'"),
        ("json", _told(row={"value": float("nan")}), "finite number"),
        ("json", _told(row={"time": "noon"}), "malformed"),
        ("json", _told(row={"more": 1}), "malformed"),
        ("json", _told(facts={"run": "../x"}, samples=[]), "a run id must"),
        (
            "json",
            _told(facts=facts(run="20260102T030405Z-abcdef", cpus=float("inf"))),
            "cpus is inf",
        ),
        ("json", _told(facts=facts(run="20260102T030405Z-abcdef", commit=None)), "commit is None"),
        ("json", _told(facts=facts(run="20260102T030405Z-abcdef", start="noon")), "invalid"),
        ("benchmark", "{", "no JSON"),
        ("benchmark", "{}", "no benchmarks"),
        ("benchmark", _benchmark(datetime="noon"), "no valid datetime"),
        ("benchmark", _benchmark(benchmarks=[3]), "malformed"),
        ("benchmark", _benchmark(benchmarks=[{**_ONE, "stats": {}}]), "malformed"),
        ("benchmark", _benchmark(benchmarks=[{**_ONE, "stats": {"data": [None]}}]), "finite"),
        ("benchmark", _benchmark(machine_info=3), "must be objects"),
        ("kvm-unit-tests", "", "no line"),
        ("kvm-unit-tests", "PASS: not its line\n\x00\xff", "no line"),
    ],
)
def test_malformed_files_write_nothing(
    tmp_path: Path, harness: Harness, form: str, text: str, cause: str
) -> None:
    file = tmp_path / "told"
    file.write_text(text)
    status, out, err = harness("import", file, f"--format={form}")
    assert (status, out) == (1, "")
    assert cause in err
    assert not (tmp_path / "store").exists()


def test_minimal_benchmark_is_imported(tmp_path: Path) -> None:
    source = ImportSource(tmp_path / "x.json", _benchmark().encode(), 0.0)
    imported = read(source)
    assert imported.samples[0].time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert imported.facts["run"].startswith("20260102T030405Z-")


def test_missing_file_is_an_error(harness: Harness, tmp_path: Path) -> None:
    status, _, err = harness("import", tmp_path / "absent", "--format=json")
    assert (status, "cannot be read" in err) == (1, True)
    assert runs(tmp_path / "store") == []
