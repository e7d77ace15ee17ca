"""What one figure is: suite, test with its parameters, metric and parameters; its attempts."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness.errors import ResultError
from harness.results import RunWriter, load, recover, statistics
from harness.results.acknowledgements import Acknowledgements
from harness.results.exchange import import_run
from harness.results.figure_names import labels_of_tests, variants
from harness.results.history import load_history
from harness.results.migrations import columns_of
from harness.results.migrations import test_of_version_3 as of_version_3
from harness.results.schema import VERSION_KEY
from harness.results.store import boot_medians, query
from tests.results.synthetic import Synthetic, facts, write_run


def nightly_benchmarks(path: Path, number: int, slow: bool) -> Path:
    """A pytest-benchmark file with two tests of one name in two files."""

    def benchmark(file: str, level: float, rounds: int) -> dict[str, Any]:
        noise = random.Random(f"{number}{file}")  # noqa: S311 - must be repeatable
        data = [level * noise.uniform(0.99, 1.01) for _ in range(rounds)]
        stats = {"data": data, "rounds": rounds, "median": sorted(data)[rounds // 2]}
        names = {"name": "test_encode", "fullname": f"tests/{file}::test_encode"}
        return {**names, "group": None, "params": None, "extra_info": {}, "stats": stats}

    content = {
        "machine_info": {"node": "ci", "system": "Linux", "cpu": {"brand_raw": "CPU", "count": 2}},
        "commit_info": {"id": f"{number:040x}", "dirty": False},
        "datetime": f"2026-01-{number:02d}T02:00:00+00:00",
        "version": "5.1.0",
        "benchmarks": [
            benchmark("test_json_codec.py", 0.001, 400),
            benchmark("test_pickle_codec.py", 0.1 if slow else 0.05, 5),
        ],
    }
    path.write_text(json.dumps(content))
    return path


def test_tests_of_one_name_in_two_files_are_two_series(tmp_path: Path) -> None:
    for number in range(1, 31):
        file = nightly_benchmarks(tmp_path / "night.json", number, slow=number > 22)
        import_run(tmp_path / "store", file, "benchmark")
    series = load_history(tmp_path / "store").series
    verdicts = dict(zip(series["test"], series["verdict"], strict=True))
    assert verdicts == {
        "tests/test_pickle_codec.py::test_encode": "regressed",
        "tests/test_json_codec.py::test_encode": "pass",
    }


def test_parameters_of_a_test_are_part_of_its_figures(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, facts())
    for block, level in (("4k", 10.0), ("64k", 90.0)):
        maker = Synthetic(writer.run, test=f"test_read.py::test_latency[{block}]")
        for boot in range(3):
            writer.add(maker.sample("read.latency", level + boot, "us", "lower", boot=boot))
    _, frame = load(writer.close())
    table = statistics.summarise(frame)
    assert dict(zip(table["test"], table["median"], strict=True)) == {
        "test_read.py::test_latency[4k]": 11.0,
        "test_read.py::test_latency[64k]": 91.0,
    }


IDS = [
    ("a.py::test_it", "kvm", 0, "a.py::test_it"),
    ("a.py::test_it[kvm]", "kvm", 0, "a.py::test_it"),
    ("a.py::test_it[kvm-3]", "kvm", 3, "a.py::test_it"),
    ("a.py::test_it[qemu-q35-3-4k-deep]", "qemu-q35", 3, "a.py::test_it[4k-deep]"),
    ("a.py::test_it[4k]", "kvm", 0, "a.py::test_it[4k]"),
    ("a.py::test_it[kvm-2-0-x]", "kvm-2", 0, "a.py::test_it[x]"),
    ("a.py::test_it[kvmtool]", "kvm", 0, "a.py::test_it[kvmtool]"),
    ("a.py::test_it[[x]]", "kvm", 0, "a.py::test_it[[x]]"),
    ("a.py::test_it[]", "kvm", 0, "a.py::test_it[]"),
    ("a.py::test_it[auto-3-4k]", "kvm", 3, "a.py::test_it[4k]"),
    ("a.py::test_it[auto]", "native", 0, "a.py::test_it"),
    ("a.py::test_it[-1]", "", 0, "a.py::test_it[1]"),
    ("a.py::test_it[x\ny]", "kvm", 0, "a.py::test_it[x\ny]"),
    ("", "kvm", 0, ""),
]


@pytest.mark.parametrize(("item", "hypervisor", "boot", "expected"), IDS)
def test_tests_of_version_3(item: str, hypervisor: str, boot: int, expected: str) -> None:
    assert of_version_3(item, hypervisor, boot) == expected


def as_version_3(path: Path) -> None:
    """Rewrite a run file as version 3 wrote it: the column test has what is item now."""
    table = pq.read_table(path)
    metadata = {**table.schema.metadata, VERSION_KEY: b"3"}
    place = table.schema.get_field_index("test")
    table = table.set_column(place, table.schema.field("test"), table["item"])
    table = table.select(columns_of(3)).replace_schema_metadata(metadata)
    pq.write_table(table, path)


def test_version_3_is_read_with_the_tests_of_today(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, facts())
    for item, hypervisor, boot, _ in IDS:
        maker = Synthetic(writer.run, hypervisor=hypervisor)
        writer.add(maker.sample("m", 1.0, "s", "lower", boot=boot, item=item, test=""))
    path = writer.close()
    as_version_3(path)
    expected = [(item, test) for item, _, _, test in IDS]
    _, frame = load(path)
    assert list(zip(frame["item"], frame["test"], strict=True)) == expected
    rows = query(tmp_path, "SELECT item, test FROM samples")
    assert sorted(zip(rows["item"], rows["test"], strict=True)) == sorted(expected)


def test_imported_samples_of_version_3_keep_their_tests(tmp_path: Path) -> None:
    """They had no parameters of this plugin: [0] is a parameter of the test's own."""
    writer = RunWriter(tmp_path, facts())
    maker = Synthetic(writer.run, hypervisor="", backend="")
    names = ["a.py::test_sort[0]", "a.py::test_sort[-1]", "a.py::test_sort[1]"]
    for name in names:
        writer.add(maker.sample("m", 1.0, "s", "lower", item=name, test=name))
    path = writer.close()
    as_version_3(path)
    assert load(path)[1]["test"].tolist() == names
    assert sorted(query(tmp_path, "SELECT test FROM samples")["test"]) == sorted(names)


def test_boots_of_versions_3_and_4_are_one_series(tmp_path: Path) -> None:
    old, new = (write_run(tmp_path, parts="boot", seed=seed) for seed in (1, 2))
    as_version_3(old)
    medians = boot_medians([old, new])
    assert set(medians["test"]) == {"suites/synthetic.py::test_made_up"}
    assert medians.groupby("run").size().tolist() == [20, 20]


# -- attempts ------------------------------------------------------------------------------------


def test_samples_before_a_last_attempt_without_samples_do_not_count(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, facts())
    samples = list(Synthetic(writer.run, boots=2).boot())
    for sample in samples:
        writer.add(sample)
    again = samples[0].item
    path = writer.close({"attempts": {again: 2}})
    _, frame = load(path)
    assert set(frame["item"]) == {one.item for one in samples} - {again}
    rows = query(tmp_path, "SELECT DISTINCT item FROM samples")
    assert set(rows["item"]) == set(frame["item"])
    assert set(boot_medians([path])["boot"]) == {1}


def test_attempts_are_known_by_the_run_not_by_the_files_name(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, facts())
    samples = list(Synthetic(writer.run, boots=2).boot())
    for sample in samples:
        writer.add(sample)
    renamed = writer.close({"attempts": {samples[0].item: 2}}).rename(tmp_path / "base.parquet")
    assert set(boot_medians([renamed])["boot"]) == {1}


def test_attempts_of_a_killed_session_are_recovered(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, facts())
    samples = list(Synthetic(writer.run, boots=2).boot())
    for sample in samples:
        writer.add(sample)
    writer.update_facts({"attempts": {samples[0].item: 2}})
    writer._release()  # as the kernel does for a killed process
    (path,) = recover(tmp_path)
    assert {one.boot for one in samples} == {0, 1}
    assert set(load(path)[1]["boot"]) == {1}


def test_attempts_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path, parts="boot")
    table = pq.read_table(path)
    broken = json.dumps({**facts(), "attempts": {"x": "1; DROP"}}).encode()
    metadata = {**table.schema.metadata, b"harness.facts": broken}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(ResultError, match="its facts cannot be read"):
        load(path)


# -- acknowledgements ----------------------------------------------------------------------------


def test_acknowledgements_of_former_ids_count_for_all_series_of_that_id() -> None:
    known = Acknowledgements({("old", "run"): "known"}, {"old": "first", "new-1": "later"})
    present = known.with_new_ids({"new-1": "old", "new-2": "old", "other": "none"})
    assert present.reason("new-1", "run") == present.reason("new-2", "run") == "known"
    assert present.reason("other", "run") == ""
    assert (present.resets["new-1"], present.resets["new-2"]) == ("later", "first")


# -- controls ------------------------------------------------------------------------------------


def test_a_control_is_that_of_the_same_suite(tmp_path: Path) -> None:
    """A control loop of another suite in the same boot is not subtracted."""
    writer = RunWriter(tmp_path, facts())
    for suite, control in (("mine", 10.0), ("theirs", 70.0)):
        maker = Synthetic(writer.run)
        for metric, value in (("exit.control", control), ("exit.cpuid", 100.0)):
            writer.add(dataclasses.replace(maker.sample(metric, value, "ns", "lower"), suite=suite))
    _, frame = load(writer.close())
    net: pd.DataFrame = statistics.subtract_control(frame)
    assert dict(zip(net["suite"], net["value"], strict=True)) == {"mine": 90.0, "theirs": 30.0}


def test_a_control_is_that_of_the_same_test(tmp_path: Path) -> None:
    """Two parameters of one test have two guests in boot 0, each with its own control."""
    writer = RunWriter(tmp_path, facts())
    for own, control in (("a", 10.0), ("b", 70.0)):
        maker = Synthetic(writer.run, test=f"t.py::test_cost[{own}]")
        for metric, value in (("exit.control", control), ("exit.cpuid", 100.0)):
            writer.add(maker.sample(metric, value, "ns", "lower"))
    alone = Synthetic(writer.run, test="t.py::test_other")
    writer.add(alone.sample("exit.cpuid", 100.0, "ns", "lower"))
    net = statistics.subtract_control(load(writer.close())[1])
    values = {
        test.partition("::")[2]: value
        for test, value in zip(net["test"], net["value"], strict=True)
    }
    assert values == {"test_cost[a]": 90.0, "test_cost[b]": 30.0, "test_other": 60.0}


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tests", "labels"),
    [
        ([("s", "a.py::t[4k]")], [""]),
        ([("s", "a.py::t[4k]"), ("s", "a.py::t[64k]")], ["4k", "64k"]),
        ([("s", "a.py::t"), ("s", "a.py::t[64k]")], ["no parameters", "64k"]),
        ([("s", "a.py::t[4k]"), ("s", "b.py::u[4k]")], ["t[4k]", "u[4k]"]),
        ([("s", "a.py::t"), ("s", "b.py::t")], ["a.py::t", "b.py::t"]),
        ([("r", "a.py::t"), ("s", "a.py::t")], ["r: a.py::t", "s: a.py::t"]),
    ],
)
def test_labels_are_as_short_as_possible(tests: list[tuple[str, str]], labels: list[str]) -> None:
    assert labels_of_tests(tests) == dict(zip(tests, labels, strict=True))


def test_variants_are_those_of_one_metric() -> None:
    rows = [
        {
            "suite": "s",
            "test": test,
            "metric": metric,
            "parameters": "{}",
            "unit": "s",
            "better": "lower",
        }
        for test, metric in (("a.py::t[1]", "x"), ("a.py::t[2]", "x"), ("b.py::u", "y"))
    ]
    assert variants(pd.DataFrame(rows)) == ["1", "2", ""]
