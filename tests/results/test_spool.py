"""The writer of runs: spools, their conversion to run files, and their recovery."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from harness.errors import ResultError
from harness.results import RunWriter, load, new_run_id, recover, runs
from harness.results.schema import COLUMNS
from tests.results.synthetic import Synthetic, facts

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
    run_facts, frame = load(path)
    assert tuple(frame.columns) == COLUMNS
    rows = frame.assign(time=frame["time"].dt.to_pydatetime()).to_dict("records")
    assert rows == [sample.row() for sample in samples]
    assert run_facts["run"] == writer.run
    assert run_facts["exit_status"] == 1
    assert run_facts["outcomes"] == {"failed": 2}
    assert run_facts["cpu_model"] == facts()["cpu_model"]
    assert run_facts["complete"] is True
    assert run_facts["start"] < run_facts["end"]


@pytest.mark.parametrize("run", ["../../etc/x", "", "20260102T030405Z-abcdef/..", "x"])
def test_malformed_run_id_writes_nothing(tmp_path: Path, run: str) -> None:
    if run:
        with pytest.raises(ResultError, match="a run id must"):
            RunWriter(tmp_path / "store", {}, run=run)
        assert not (tmp_path / "store").exists()


def test_sample_of_another_run_is_refused(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    stranger = next(Synthetic(new_run_id()).boot())
    with pytest.raises(ResultError, match="is of run"):
        writer.add(stranger)
    assert len(load(writer.close())[1]) == writer.count


def test_second_close_is_harmless_and_add_after_close_fails(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    path = writer.close()
    assert writer.close() == path
    with pytest.raises(ResultError, match="closed"):
        writer.add(next(Synthetic(writer.run).boot()))


def test_add_is_thread_safe(tmp_path: Path) -> None:
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
    run_facts, frame = load(writer.close())
    assert len(frame) == 4 * len(batch)
    assert "lost_lines" not in run_facts


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
    run_facts, frame = load(path)
    assert len(frame) == 12
    assert run_facts["complete"] is False
    assert run_facts["lost_lines"] == 1
    assert run_facts["host"] == "emulated"
    assert not spool.exists()
    assert recover(tmp_path) == []


def test_recover_skips_running_sessions_and_other_files(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    stranger = tmp_path / "notes.jsonl"
    stranger.write_text("{}\n")
    assert recover(tmp_path) == []
    assert writer.spool.exists()
    assert stranger.read_text() == "{}\n"
    assert len(load(writer.close())[1]) == writer.count


def test_recover_renames_an_unreadable_spool(tmp_path: Path) -> None:
    spool = tmp_path / "20260102T030405Z-abcdef.jsonl"
    spool.write_bytes(b"\x00\xff rubbish\n")
    assert recover(tmp_path) == []
    assert _files(tmp_path) == ["20260102T030405Z-abcdef.broken"]


def test_close_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = _filled(tmp_path)

    def half(table: Any, place: Path, **_: Any) -> None:
        place.write_bytes(b"PAR1 half a file")
        raise NO_SPACE

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", half)
        with pytest.raises(ResultError, match="No space left") as caught:
            writer.close({"exit_status": 0})
    assert "free space" in caught.value.hint
    assert str(writer.spool) in caught.value.hint
    assert _files(tmp_path) == [writer.spool.name]
    (path,) = recover(tmp_path)
    run_facts, frame = load(path)
    assert len(frame) == writer.count
    assert run_facts["exit_status"] == 0
    assert run_facts["complete"] is True


def test_full_disk_leaves_no_partial_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = _filled(tmp_path)
    sample = next(Synthetic(writer.run).boot())
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: len(data) // 2], at))
        with pytest.raises(ResultError, match="No space left"):
            writer.add(sample)
    writer.add(dataclasses.replace(sample, value=42.0))
    run_facts, frame = load(writer.close())
    assert "lost_lines" not in run_facts
    assert len(frame) == writer.count
    assert frame["value"].iloc[-1] == 42.0


def test_uncreatable_store_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot be written") as caught:
        RunWriter(tmp_path / "file" / "store", {})
    assert caught.value.hint


def test_spool_of_version_1_is_recovered(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    lines = [json.loads(line) for line in writer.spool.read_text().splitlines()]
    for line in lines:
        for name in ("attempt", "version"):
            line.pop(name, None)
        if "item" in line:
            line["test"] = line.pop("item")
    old = tmp_path / "20260102T030405Z-0000a2.jsonl"
    old.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path,) = recover(tmp_path)
    run_facts, frame = load(path)
    assert run_facts["run"] == old.stem
    assert "lost_lines" not in run_facts
    assert set(frame["attempt"]) == {1}
    assert set(frame["test"]) == {"suites/synthetic.py::test_made_up"}
    assert len(frame) == writer.count


def test_new_empty_spool_is_not_recovered(tmp_path: Path) -> None:
    spool = tmp_path / "20260102T030405Z-abcdef.jsonl"
    spool.touch()
    assert recover(tmp_path) == []
    assert spool.exists()
    os.utime(spool, (0, 0))  # its session died before the lock
    assert recover(tmp_path) == []
    assert _files(tmp_path) == []


# -- other machines, other users --------------------------------------------------------------


def _dead(store: Path, first: dict[str, Any], *lines: str) -> Path:
    """A spool without a running session."""
    writer = RunWriter(store, facts())
    spool = writer.spool
    document = json.loads(spool.read_text().splitlines()[0])
    writer._release()
    spool.write_text("\n".join([json.dumps({**document, **first}), *lines, ""]))
    return spool


def test_spool_of_another_machine_is_kept_for_a_week(tmp_path: Path) -> None:
    spool = _dead(tmp_path, {"machine": "another"})
    assert recover(tmp_path) == []
    assert spool.exists(), "some shared file systems do not share locks"
    long_ago = time.time() - 8 * 86400
    os.utime(spool, (long_ago, long_ago))
    assert len(recover(tmp_path)) == 1
    assert not spool.exists()


def test_spool_of_newer_version_is_not_recovered(tmp_path: Path) -> None:
    spool = _dead(tmp_path, {"version": 99})
    problems: list[str] = []
    assert recover(tmp_path, problems) == []
    assert spool.exists()
    assert "schema version is 99" in problems[0]


def test_bad_spool_does_not_stop_recovery(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    row = writer.spool.read_text().splitlines()[1]
    writer.close()
    wrong = json.dumps({**json.loads(row), "boot": "x"})
    _dead(tmp_path, {}, wrong, '{"facts": 3}', '{"facts": {"cpus": NaN}}', row)
    newer = _dead(tmp_path, {"version": 99})
    problems: list[str] = []
    (path,) = recover(tmp_path, problems)
    assert load(path)[0]["lost_lines"] == 3
    assert [newer.name in problem for problem in problems] == [True]


def test_deleted_spool_loses_no_sample(tmp_path: Path) -> None:
    writer = _filled(tmp_path)
    count = writer.count
    writer.spool.unlink()
    path = writer.close()
    assert len(load(path)[1]) == count
    with pytest.raises(ResultError, match="is closed"):
        writer.add(next(Synthetic(writer.run).boot()))


def test_leftover_temporary_file_is_removed(tmp_path: Path) -> None:
    spool = _dead(tmp_path, {})
    month = tmp_path / f"{spool.stem[:4]}-{spool.stem[4:6]}"
    month.mkdir()
    (month / f".{spool.stem}.parquet.00000000.tmp").write_bytes(b"PAR1")
    assert recover(tmp_path) == list(month.iterdir())
