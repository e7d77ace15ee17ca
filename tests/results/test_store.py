from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import ResultError
from harness.results import RunWriter, load, new_run_id, query, recover, runs
from harness.results.schema import COLUMNS
from tests.results.synthetic import Synthetic, facts, write_run

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _filled(directory: Path, boots: int = 2) -> RunWriter:
    writer = RunWriter(directory, facts())
    for sample in Synthetic(writer.run, boots=boots).boot():
        writer.add(sample)
    return writer


def _files(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def test_round_trip(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, facts())
    samples = list(Synthetic(writer.run, boots=2, batches=3).everything())
    for sample in samples:
        writer.add(sample)
    path = writer.close({"exit_status": 1, "outcomes": {"failed": 2}})

    month = f"{writer.run[:4]}-{writer.run[4:6]}"
    assert path == tmp_path / month / f"{writer.run}.parquet"
    assert _files(tmp_path) == [f"{month}/{writer.run}.parquet"]
    told, frame = load(path)
    assert tuple(frame.columns) == COLUMNS
    rows = frame.assign(time=frame["time"].dt.to_pydatetime()).to_dict("records")
    assert rows == [sample.row() for sample in samples]
    assert told["run"] == writer.run
    assert told["exit_status"] == 1
    assert told["outcomes"] == {"failed": 2}
    assert told["cpu_model"] == facts()["cpu_model"]
    assert told["complete"] is True
    assert told["start"] < told["end"]


def test_run_ids_sort_by_time_and_never_repeat() -> None:
    early = new_run_id(datetime(2026, 1, 9, tzinfo=UTC))
    late = new_run_id(datetime(2026, 1, 10, tzinfo=UTC))
    assert early < late
    assert len({new_run_id() for _ in range(200)}) == 200


@pytest.mark.parametrize("run", ["../../etc/x", "", "20260102T030405Z-abcdef/..", "x"])
def test_malformed_run_id_writes_nothing(tmp_path: Path, run: str) -> None:
    if run:
        with pytest.raises(ResultError, match="no run id"):
            RunWriter(tmp_path / "store", {}, run=run)
        assert not (tmp_path / "store").exists()


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


def test_sample_of_another_run_is_refused(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    stranger = next(Synthetic(new_run_id()).boot())
    with pytest.raises(ResultError, match="is of run"):
        writer.add(stranger)
    assert len(load(writer.close())[1]) == writer.count


def test_closed_twice_is_harmless_and_add_after_is_not(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    path = writer.close()
    assert writer.close() == path
    with pytest.raises(ResultError, match="closed"):
        writer.add(next(Synthetic(writer.run).boot()))


def test_threads_may_add_at_once(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, {})
    batch = list(Synthetic(writer.run, boots=25).boot())

    def work() -> None:
        for sample in batch:
            writer.add(sample)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told, frame = load(writer.close())
    assert len(frame) == 4 * len(batch)
    assert "lost_lines" not in told


CRASH = """
import os, signal, sys
from pathlib import Path
from harness.results import RunWriter
from tests.results.synthetic import Synthetic, facts
writer = RunWriter(Path(sys.argv[1]), facts())
for sample in Synthetic(writer.run, boots=3).boot():
    writer.add(sample)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_session_loses_no_sample(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    child = subprocess.run(
        [sys.executable, "-c", CRASH, str(tmp_path)], cwd=root, check=False, timeout=60
    )
    assert child.returncode == -signal.SIGKILL
    assert runs(tmp_path) == []
    (spool,) = tmp_path.glob("*.jsonl")
    with spool.open("ab") as stream:
        stream.write(b'{"metric": "boot.re')  # the line it was writing when it died
    (path,) = recover(tmp_path)
    told, frame = load(path)
    assert len(frame) == 12
    assert told["complete"] is False
    assert told["lost_lines"] == 1
    assert told["host"] == "emulated"
    assert not spool.exists()
    assert recover(tmp_path) == []


def test_recover_leaves_living_sessions_and_strangers_alone(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    stranger = tmp_path / "notes.jsonl"
    stranger.write_text("{}\n")
    assert recover(tmp_path) == []
    assert writer.spool.exists()
    assert stranger.read_text() == "{}\n"
    assert len(load(writer.close())[1]) == writer.count


def test_recover_sets_a_spool_of_rubbish_aside(tmp_path: Path) -> None:
    spool = tmp_path / "20260102T030405Z-abcdef.jsonl"
    spool.write_bytes(b"\x00\xff rubbish\n")
    assert recover(tmp_path) == []
    assert _files(tmp_path) == ["20260102T030405Z-abcdef.broken"]


def test_close_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = _filled(tmp_path)

    def half(table: Any, stream: Any, **_: Any) -> None:
        stream.write(b"PAR1 half a file")
        raise NO_SPACE

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", half)
        with pytest.raises(ResultError, match="No space left") as caught:
            writer.close({"exit_status": 0})
    assert "Free space" in caught.value.mend
    assert str(writer.spool) in caught.value.mend
    assert _files(tmp_path) == [writer.spool.name]
    (path,) = recover(tmp_path)
    told, frame = load(path)
    assert len(frame) == writer.count
    assert told["exit_status"] == 0
    assert told["complete"] is True


def test_full_disk_at_add_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = _filled(tmp_path)
    sample = next(Synthetic(writer.run).boot())
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: len(data) // 2], at))
        with pytest.raises(ResultError, match="No space left"):
            writer.add(sample)
    writer.add(dataclasses.replace(sample, value=42.0))
    told, frame = load(writer.close())
    assert "lost_lines" not in told
    assert len(frame) == writer.count
    assert frame["value"].iloc[-1] == 42.0


def test_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written") as caught:
        RunWriter(tmp_path / "file" / "store", {})
    assert caught.value.mend


def test_broken_file_and_other_version(tmp_path: Path) -> None:
    path = write_run(tmp_path, parts="boot")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ResultError, match="no readable Parquet"):
        load(path)
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(ResultError, match="schema version is none"):
        load(path)
    with pytest.raises(ResultError, match="no such run file"):
        load(tmp_path / "absent.parquet")


def test_query_spans_runs(tmp_path: Path) -> None:
    directory = tmp_path / "it's a [store]"
    for _ in range(2):
        write_run(directory, parts="boot io", boots=3)
    told = query(
        directory,
        "SELECT run, facts->>'host' AS host, count(*) AS n, max(value) AS slowest "
        "FROM samples JOIN runs USING (run) WHERE metric = 'boot.ready' "
        "AND parameters->>'memory' = '256' GROUP BY ALL",
    )
    assert told["n"].tolist() == [3, 3]
    assert set(told["host"]) == {"emulated"}
    with pytest.raises(ResultError, match="query failed"):
        query(directory, "SELECT nothing FROM nowhere")
    with pytest.raises(ResultError, match="holds no runs"):
        query(tmp_path / "empty", "SELECT 1")
