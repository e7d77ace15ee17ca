from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from harness.errors import ResultError
from harness.results import RunWriter, load, new_run_id, query, readable_files, runs
from harness.results.schema import COLUMNS, FACTS_KEY, SCHEMA_VERSION, VERSION_KEY, Sample
from harness.results.store import boot_medians, facts_of
from tests.results.synthetic import VERSION_1, Synthetic, facts, version_1, write_run

COUNT = "SELECT count(*) AS n FROM samples"


def _rewritten(
    path: Path,
    change: Callable[[pa.Table], pa.Table] = lambda table: table,
    metadata: Mapping[bytes, bytes] | None = None,
) -> Path:
    """Rewrite a run file as another program would."""
    table = pq.read_table(path)
    kept = {**table.schema.metadata, **(metadata or {})}
    pq.write_table(change(table).replace_schema_metadata(kept), path)
    return path


def _values(values: list[float | None]) -> Callable[[pa.Table], pa.Table]:
    """Replace the values of the first samples."""

    def change(table: pa.Table) -> pa.Table:
        kept = table["value"].to_pylist()[len(values) :]
        return table.set_column(1, "value", pa.array([*values, *kept], pa.float64()))

    return change


def test_run_ids_are_unique_and_sort_by_time() -> None:
    early = new_run_id(datetime(2026, 1, 9, tzinfo=UTC))
    late = new_run_id(datetime(2026, 1, 10, tzinfo=UTC))
    assert early < late
    assert len({new_run_id() for _ in range(200)}) == 200


def test_newest_and_named_run(tmp_path: Path) -> None:
    first = RunWriter(tmp_path, {}, run="20260101T000000Z-00000a")
    first.close()
    last = RunWriter(tmp_path, {}, run="20260201T000000Z-000001")
    last.close()
    assert [path.stem for path in runs(tmp_path)] == [first.run, last.run]
    assert load(tmp_path)[0]["run"] == last.run
    assert load(tmp_path, first.run)[0]["run"] == first.run
    with pytest.raises(ResultError, match="no run 2027"):
        load(tmp_path, "20270101T000000Z-00000a")


def test_query_spans_runs(tmp_path: Path) -> None:
    directory = tmp_path / "it's a [store]"
    for _ in range(2):
        write_run(directory, parts="boot io", boots=3)
    result = query(
        directory,
        "SELECT run, facts->>'host' AS host, count(*) AS n, max(value) AS slowest "
        "FROM samples JOIN runs USING (run) WHERE metric = 'boot.ready' "
        "AND parameters->>'memory' = '256' GROUP BY ALL",
    )
    assert result["n"].tolist() == [3, 3]
    assert set(result["host"]) == {"emulated"}
    with pytest.raises(ResultError, match="query failed"):
        query(directory, "SELECT nothing FROM nowhere")
    with pytest.raises(ResultError, match="holds no runs"):
        query(tmp_path / "empty", "SELECT 1")


def test_boot_medians_exclude_host_utilization(tmp_path: Path) -> None:
    files = [write_run(tmp_path, parts="boot exits utilization", boots=3) for _ in range(2)]
    medians = boot_medians(files)
    assert len(medians) == 2 * 3 * (4 + 3 * 5)
    assert not medians["metric"].str.startswith("host.").any()
    _, frame = load(files[0])
    expected = frame[(frame["metric"] == "exit.cpuid") & (frame["boot"] == 2)]["value"]
    mine = medians[(medians["run"] == files[0].stem) & (medians["metric"] == "exit.cpuid")]
    assert mine[mine["boot"] == 2][["value", "n"]].to_numpy().tolist() == [
        [pytest.approx(expected.median()), 30]
    ]
    assert boot_medians([]).empty


# -- attempts ------------------------------------------------------------------------------------


def _retried(directory: Path) -> tuple[Path, list[Sample]]:
    """A run with a rerun of the test of boot 1, and the samples that count."""
    writer = RunWriter(directory, facts())
    maker = Synthetic(writer.run, boots=3)
    samples = [*maker.boot(), *maker.utilization(2)]
    again = [
        dataclasses.replace(sample, value=2 * sample.value, attempt=2)
        for sample in samples
        if sample.boot == 1
    ]
    native = dataclasses.replace(again[0], hypervisor="native", attempt=1)  # not run again
    host = dataclasses.replace(samples[-1], attempt=2)  # without a test there are no attempts
    for sample in (*samples, *again, native, host):
        writer.add(sample)
    return writer.close(), [*(one for one in samples if one.boot != 1), *again, native, host]


def test_only_last_attempt_is_loaded(tmp_path: Path) -> None:
    path, counting = _retried(tmp_path)
    _, frame = load(path)
    rows = frame.assign(time=frame["time"].dt.to_pydatetime()).to_dict("records")
    assert rows == [sample.row() for sample in counting]
    assert query(tmp_path, COUNT)["n"].item() == len(counting)
    asked = query(tmp_path, "SELECT metric, value, attempt FROM samples WHERE boot = 1")
    assert sorted(asked["attempt"]) == [1, 2, 2, 2, 2]
    medians = boot_medians([path])
    assert medians["n"].max() == 1
    assert set(medians["value"]) == {one.value for one in counting if one.test}
    kept = pq.read_table(path)
    assert len(kept) == len(counting) + 4
    assert pc.max(kept["attempt"]).as_py() == 2


# -- versions ------------------------------------------------------------------------------------


def test_version_1_is_read(tmp_path: Path) -> None:
    path = version_1(tmp_path)
    run_facts, frame = load(path)
    assert (run_facts["run"], run_facts["host"]) == (VERSION_1, "emulated")
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == len(pq.read_table(path)) == 187
    assert set(frame["attempt"]) == {1}
    assert frame["attempt"].dtype == "int32"
    assert facts_of(path) == run_facts
    assert query(tmp_path, "SELECT count(*) AS n, max(attempt) AS a FROM samples").to_dict(
        "records"
    ) == [{"n": 187, "a": 1}]
    assert len(boot_medians([path])) == 3 * (4 + 3 * 5)


def test_versions_mix_in_one_store(tmp_path: Path) -> None:
    old, (retried, counting) = version_1(tmp_path), _retried(tmp_path)
    new = write_run(tmp_path, parts="boot", boots=2)
    result = query(
        tmp_path,
        "SELECT run, count(*) AS n, max(attempt) AS attempt, any_value(facts->>'host') AS host "
        "FROM samples JOIN runs USING (run) GROUP BY run ORDER BY run",
    )
    assert dict(zip(result["run"], result["n"], strict=True)) == {
        old.stem: 187,
        retried.stem: len(counting),
        new.stem: 8,
    }
    assert set(result["host"]) == {"emulated"}
    both = boot_medians([old, retried, new])
    assert both.groupby("run").size().to_dict() == {old.stem: 57, retried.stem: 13, new.stem: 8}


def test_newer_version_requests_an_update(tmp_path: Path) -> None:
    later = str(SCHEMA_VERSION + 1).encode()
    path = _rewritten(write_run(tmp_path, parts="boot"), metadata={VERSION_KEY: later})
    for read in (load, facts_of, lambda path: boot_medians([path])):
        with pytest.raises(ResultError, match=f"schema version is {SCHEMA_VERSION + 1}") as caught:
            read(path)
    with pytest.raises(ResultError) as caught:
        load(path)
    assert "update the harness" in caught.value.hint


# -- bad input -----------------------------------------------------------------------------------


def _cut(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _without(column: str) -> Callable[[Path], object]:
    return lambda path: _rewritten(path, lambda table: table.drop_columns([column]))


def _flipped(path: Path) -> None:
    """Damage the middle of the file; its footer stays valid."""
    whole = bytearray(path.read_bytes())
    whole[40:400] = bytes(360)
    path.write_bytes(whole)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_cut, "must be a readable Parquet"),
    "empty": (lambda path: path.write_bytes(b""), "must be a readable Parquet"),
    "text": (lambda path: path.write_text("value\n1\n"), "must be a readable Parquet"),
    "strange": (lambda path: pq.write_table(pa.table({"x": [1]}), path), "schema version is none"),
    "no number": (
        lambda path: _rewritten(path, metadata={VERSION_KEY: b"\xff"}),
        "its schema version is",
    ),
    "no column": (_without("metric"), "its column metric is missing"),
    "other type": (
        lambda path: _rewritten(
            path, lambda table: table.set_column(1, "value", table["value"].cast(pa.string()))
        ),
        "its column value is of type string, expected double",
    ),
    "no facts": (lambda path: _rewritten(path, metadata={FACTS_KEY: b"["}), "its facts cannot"),
    "facts of a kind": (lambda path: _rewritten(path, metadata={FACTS_KEY: b"1"}), "its facts"),
}


@pytest.mark.parametrize(("breaks", "cause"), BROKEN.values(), ids=BROKEN)
def test_broken_file_does_not_hide_others(
    tmp_path: Path, breaks: Callable[[Path], object], cause: str
) -> None:
    good = write_run(tmp_path, parts="boot", boots=2)
    bad = write_run(tmp_path, parts="boot", boots=2)
    breaks(bad)
    with pytest.raises(ResultError, match=cause) as caught:
        load(bad)
    assert caught.value.hint
    with pytest.raises(ResultError, match=cause):
        facts_of(bad)
    assert set(runs(tmp_path)) == {good, bad}
    readable, problems = readable_files(runs(tmp_path))
    assert readable == [good]
    assert len(problems) == 1
    assert str(bad) in problems[0]
    problems_: list[str] = []
    assert query(tmp_path, COUNT, problems_)["n"].item() == 8
    assert query(tmp_path, "SELECT run FROM runs", problems_)["run"].tolist() == [good.stem]
    assert len(boot_medians(runs(tmp_path), problems_)) == 8
    assert problems_ == problems * 3
    with pytest.raises(ResultError, match="none of 1 run files can be read"):
        boot_medians([bad])


def test_damaged_row_group_is_detected(tmp_path: Path) -> None:
    good = write_run(tmp_path, parts="boot", boots=2)
    bad = write_run(tmp_path, parts="exits", boots=2)
    _flipped(bad)
    with pytest.raises(ResultError, match="must be a readable Parquet"):
        load(bad)
    problems: list[str] = []
    assert len(boot_medians([good, bad], problems)) == 8
    assert len(problems) == 1
    assert str(bad) in problems[0]


def test_non_finite_values_are_excluded_and_counted(tmp_path: Path) -> None:
    path = write_run(tmp_path, parts="boot", boots=2)
    _rewritten(path, _values([math.nan, math.inf, -math.inf, None]))
    run_facts, frame = load(path)
    assert run_facts["notes"] == ["4 samples that are not finite excluded"]
    assert len(frame) == 4
    assert frame.index.tolist() == [0, 1, 2, 3]
    assert query(tmp_path, COUNT)["n"].item() == 4
    assert len(boot_medians([path])) == 4
    _rewritten(path, _values([1.0, 1.0, 1.0, math.nan]))
    assert load(path)[0]["notes"] == ["1 sample that is not finite excluded"]


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="no such run file"):
        load(tmp_path / "absent.parquet")
    with pytest.raises(ResultError, match="no such run file"):
        facts_of(tmp_path / "absent.parquet")


def test_returned_facts_are_copies(tmp_path: Path) -> None:
    path = write_run(tmp_path, parts="boot")
    run_facts: Any = facts_of(path)
    run_facts["host"] = "elsewhere"
    assert facts_of(path)["host"] == "emulated"
    assert json.loads(query(tmp_path, "SELECT facts FROM runs")["facts"].item())
