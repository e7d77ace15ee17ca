"""Where samples are kept: one immutable Parquet file a run, by month; DuckDB reads them in place.

    DIR/2026-11/20261123T091502Z-3fa9c1.parquet    a run, closed
    DIR/20261123T091502Z-3fa9c1.jsonl              its spool: a run at work, or left by a dead one

While a session runs, every sample is a line of the spool, handed to the kernel at once: a session
that dies (SIGKILL, the machine's OOM killer) loses at most the line it was writing. `close` and
`recover` turn spools into Parquet by the same code. The spool is locked while its session lives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import ResultError
from harness.results.schema import (
    COLUMNS,
    FACTS_KEY,
    SCHEMA,
    SCHEMA_VERSION,
    VERSION_KEY,
    RunFacts,
    Sample,
    check_facts,
    with_metadata,
)
from harness.results.statistics import BOOT, KEYS

_RUN_ID = re.compile(r"(\d{4})(\d{2})\d{2}T\d{6}Z-[0-9a-f]{6}")


def new_run_id(now: datetime | None = None) -> str:
    """UTC time and a random suffix: sorts by time, never twice the same."""
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


class RunWriter:
    """Takes a run's samples and, at close, makes them one Parquet file. Safe to use from threads.

    Args:
        directory: the store; made when missing.
        facts: what is known of the run at its start; `run` and `start` are filled in.

    Raises ResultError when the store cannot be written.
    """

    def __init__(self, directory: Path, facts: RunFacts, *, run: str | None = None) -> None:
        self.directory = Path(directory)
        self.run = run or new_run_id()
        _target(self.directory, self.run)  # refuses a malformed run id before anything is written
        self.facts: RunFacts = {**facts, "run": self.run}
        self.facts.setdefault("start", datetime.now(UTC).isoformat())
        self.spool = self.directory / f"{self.run}.jsonl"
        self._lock = threading.Lock()
        self._fd = -1
        try:
            self.spool.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.spool, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _unwritable(self.spool, error) from error
        self._size = 0
        self.count = 0
        self._append({"facts": self.facts})

    def add(self, sample: Sample) -> None:
        """Keep a sample. Raises ResultError when it belongs to another run, or space is out."""
        if sample.run != self.run:
            raise ResultError(
                f"sample {sample.metric!r} is of run {sample.run!r}, not {self.run!r}"
            )
        row = sample.row()
        row["time"] = row["time"].isoformat()
        self._append(row)
        self.count += 1

    def flush(self) -> None:
        """Force what was added to the disk, so that it survives the machine's crash too."""
        with self._lock:
            if self._fd < 0:
                return
            try:
                os.fsync(self._fd)
            except OSError as error:
                raise _unwritable(self.spool, error) from error

    def close(self, facts: RunFacts | None = None) -> Path:
        """Write DIR/YYYY-MM/<run>.parquet, atomically, and remove the spool; return the path.

        facts: what is known at the end; laid over those of the start. Raises ResultError when
        the file cannot be written; the spool then stays for `recover`. A second call is harmless.
        """
        target = _target(self.directory, self.run)
        with self._lock:
            closed = self._fd < 0
        if closed:
            return target
        self.facts = cast(RunFacts, {**self.facts, **(facts or {}), "run": self.run})
        self.facts.setdefault("end", datetime.now(UTC).isoformat())
        self.facts.setdefault("complete", True)
        try:
            self._append({"facts": self.facts})
            _convert(self.directory, self.spool, self.run)
        finally:
            with self._lock:
                os.close(self._fd)
                self._fd = -1
        return target

    def _append(self, entry: dict[str, Any]) -> None:
        line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        with self._lock:
            if self._fd < 0:
                raise ResultError(f"run {self.run} is closed; no sample can be added")
            try:
                written = os.pwrite(self._fd, line, self._size)
                if written != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                # Half a line in the middle would cost the lines after it: take it back.
                os.ftruncate(self._fd, self._size)
                raise _unwritable(self.spool, error) from error
            self._size += len(line)


def recover(directory: Path) -> list[Path]:
    """Turn the spools that dead sessions left into run files; return the files made.

    Spools of living sessions are left alone. The facts say complete=False and, when lines were
    cut, lost_lines. A spool with not one readable line is renamed to *.broken.
    """
    made: list[Path] = []
    for spool in sorted(Path(directory).glob("*.jsonl")):
        run = spool.stem
        if not _RUN_ID.fullmatch(run):
            continue  # not one of ours
        try:
            with spool.open("rb") as held:
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if not spool.exists():
                    continue  # its session closed it between our listing and our lock
                if _readable(spool):
                    made.append(_convert(Path(directory), spool, run))
                else:
                    spool.rename(spool.with_suffix(".broken"))
        except OSError as error:
            raise _unwritable(spool, error) from error
    return made


def runs(directory: Path) -> list[Path]:
    """The run files of a store, oldest first."""
    found = Path(directory).glob("[0-9][0-9][0-9][0-9]-[0-9][0-9]/*.parquet")
    return sorted((path for path in found if _RUN_ID.fullmatch(path.stem)), key=lambda p: p.stem)


def load(path: Path, run: str | None = None) -> tuple[RunFacts, pd.DataFrame]:
    """One run: its facts and its samples (columns as in schema.COLUMNS, parameters as JSON text).

    path: a run's file, or a store: then `run` names the run, or the newest is taken. Raises
    ResultError when there is none, or the file is broken or of another schema version.
    """
    path = Path(path)
    if path.is_dir():
        path = _find(path, run)
    try:
        table = pq.ParquetFile(path).read()
        frame: pd.DataFrame = table.to_pandas()
    except FileNotFoundError as error:
        raise ResultError(f"{path}: no such run file") from error
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    facts = _facts_of(path, table.schema)
    return facts, frame


def facts_of(path: Path) -> RunFacts:
    """What is known of a run; its samples are not read. Raises ResultError as load does."""
    try:
        return _facts_of(path, pq.read_schema(path))
    except FileNotFoundError as error:
        raise ResultError(f"{path}: no such run file") from error
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def boot_medians(files: Sequence[Path]) -> pd.DataFrame:
    """One row a boot and KEYS of several runs: KEYS, run, boot, value (the boot's median), n (its
    samples). The host's utilization is left out. Raises ResultError."""
    keys = ", ".join(f'"{name}"' for name in (*KEYS, *BOOT))
    return _over(
        files,
        f"SELECT {keys}, median(value) AS value, count(*) AS n FROM samples "  # noqa: S608 - ours
        "WHERE NOT starts_with(metric, 'host.') GROUP BY ALL ORDER BY ALL",
    )


def query(directory: Path, sql: str) -> pd.DataFrame:
    """SQL over a whole store, by DuckDB, in place and offline.

    Views: samples (columns as in schema.COLUMNS) and runs (run, facts as JSON text).
    """
    files = [str(path) for path in runs(directory)]
    if not files:
        raise ResultError(f"{directory} holds no runs", mend="Run a suite with --results first.")
    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})
    try:
        connection.read_parquet(files).project(", ".join(COLUMNS)).create_view("samples")
        # A footer costs one small read; the facts then need no second source of truth.
        schemas = [pq.read_schema(file) for file in files]
        connection.register(
            "runs",
            pd.DataFrame(
                {
                    "run": [Path(file).stem for file in files],
                    "facts": [
                        check_facts(_facts_of(Path(file), schema))
                        for file, schema in zip(files, schemas, strict=True)
                    ],
                }
            ),
        )
        answer: pd.DataFrame = connection.sql(sql).df()
        return answer
    except duckdb.Error as error:
        raise ResultError(f"the query failed: {error}") from error
    finally:
        connection.close()


def _over(files: Sequence[Path], sql: str) -> pd.DataFrame:
    """SQL over the samples of some runs."""
    for path in files:
        facts_of(path)  # of a version that this reads
    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})
    try:
        every = connection.read_parquet([str(path) for path in files])
        every.project(", ".join(f'"{name}"' for name in COLUMNS)).create_view("samples")
        answer: pd.DataFrame = connection.sql(sql).df()
        return answer
    except duckdb.Error as error:
        raise ResultError(f"the runs cannot be read: {error}") from error
    finally:
        connection.close()


def _unreadable(path: Path, error: Exception) -> ResultError:
    return ResultError(
        f"{path} is no readable Parquet file: {error}", mend="Restore it, or take another run."
    )


def _find(directory: Path, run: str | None) -> Path:
    found = runs(directory)
    if run is not None:
        found = [path for path in found if path.stem == run]
    if not found:
        raise ResultError(
            f"{directory} holds no run" + (f" {run}" if run else "s"),
            mend="Run a suite with --results first, or name another run.",
        )
    return found[-1]


def _target(directory: Path, run: str) -> Path:
    match = _RUN_ID.fullmatch(run)
    if not match:
        raise ResultError(f"{run!r} is no run id (expected 20261123T091502Z-3fa9c1)")
    return directory / f"{match[1]}-{match[2]}" / f"{run}.parquet"


def _facts_of(path: Path, schema: pa.Schema) -> RunFacts:
    metadata = schema.metadata or {}
    version = metadata.get(VERSION_KEY, b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise ResultError(
            f"{path}: schema version is {version}, this harness reads {SCHEMA_VERSION}",
            mend="Read it with the harness that wrote it.",
        )
    return cast(RunFacts, json.loads(metadata[FACTS_KEY]))


def _lines(spool: Path) -> tuple[RunFacts, list[dict[str, Any]], int]:
    """Facts (the last told), rows, and how many lines could not be read."""
    facts: RunFacts = {}
    rows: list[dict[str, Any]] = []
    lost = 0
    with spool.open("rb") as stream:
        for line in stream:
            try:
                entry = json.loads(line)
                if set(entry) == {"facts"}:
                    facts = entry["facts"]
                    continue
                entry["time"] = datetime.fromisoformat(entry["time"])
                rows.append({name: entry[name] for name in COLUMNS})
            except (ValueError, KeyError, TypeError):
                lost += 1
    return facts, rows, lost


def _readable(spool: Path) -> bool:
    facts, rows, _ = _lines(spool)
    return bool(facts or rows)


def _convert(directory: Path, spool: Path, run: str) -> Path:
    """Spool to Parquet: written beside its place, forced to the disk, renamed; spool removed."""
    facts, rows, lost = _lines(spool)
    facts["run"] = run
    facts.setdefault("complete", False)
    if lost:
        facts["lost_lines"] = lost
    target = _target(directory, run)
    partial = target.with_name(f".{run}.tmp")
    try:
        table = pa.Table.from_pylist(rows, schema=SCHEMA).cast(with_metadata(run, facts))
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as stream:
            pq.write_table(table, stream, compression="zstd")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(target)
        _sync_directory(target.parent)
        spool.unlink()
    except (OSError, pa.ArrowException) as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise _unwritable(target, error, kept=spool) from error
    return target


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unwritable(path: Path, error: Exception, *, kept: Path | None = None) -> ResultError:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    mend = "Free space there" if full else "Make the place writable"
    if kept:
        mend += f"; the samples are safe in {kept} and the next run will convert them"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ResultError(f"results cannot be written to {path}: {reason}", mend=mend + ".")
