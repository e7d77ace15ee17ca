"""The writer of runs: samples go to a spool during the session, and to one Parquet file at its end.

Each sample is one line of the spool, written at once. A killed session (SIGKILL, OOM killer) loses
at most the line that it was writing. `close` and `recover` convert spools to Parquet with the same
code. A session holds a lock on its spool.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import ResultError
from harness.results.atomic_write import atomic_write
from harness.results.migrations import migrate_row
from harness.results.schema import (
    COLUMNS,
    SCHEMA,
    SCHEMA_VERSION,
    RunFacts,
    Sample,
    schema_with_metadata,
)
from harness.results.store import RUN_ID, run_path
from harness.run_id import new_run_id

_DICTIONARY_COLUMNS = [name for name in COLUMNS if name != "value"]  # values rarely repeat
_MIN_FOREIGN_AGE = 7 * 86400.0  # seconds since the last write to another machine's spool
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(COLUMNS, (str,)),
    **{"value": (float, int), "time": (datetime,)},
    **dict.fromkeys(("boot", "batch", "attempt"), (int,)),
}
_MIN_EMPTY_AGE = 60.0  # seconds after which the session of an empty spool is dead


class RunWriter:
    """Writes the samples of a run to a spool and, at close, to one Parquet file. Thread-safe.

    Args:
        directory: the store; created when missing.
        facts: facts known at the start of the run; `run` and `start` are added.

    Raises ResultError when the store cannot be written.
    """

    def __init__(self, directory: Path, facts: RunFacts, *, run: str | None = None) -> None:
        self.directory = Path(directory)
        self.run = new_run_id() if run is None else run
        run_path(self.directory, self.run)  # raises for a malformed id before any write
        self.facts: RunFacts = {**facts, "run": self.run}
        self.facts.setdefault("start", datetime.now(UTC).isoformat())
        self.spool = self.directory / f"{self.run}.jsonl"
        self._lock = threading.Lock()
        try:
            self.spool.parent.mkdir(parents=True, exist_ok=True)
            self._fd = _create_locked(self.spool)
        except OSError as error:
            raise _write_error(self.spool, error) from error
        self._size = 0
        self._closing = False
        self.count = 0
        self._append({"facts": self.facts, "machine": _machine_id(), "version": SCHEMA_VERSION})

    def add(self, sample: Sample) -> None:
        """Write a sample. Raises ResultError when it is of another run, or the disk is full."""
        if sample.run != self.run:
            raise ResultError(
                f"sample {sample.metric!r} is of run {sample.run!r}, not {self.run!r}"
            )
        row = sample.row()
        row["time"] = row["time"].isoformat()
        self._append(row)
        self.count += 1

    def update_facts(self, facts: RunFacts) -> None:
        """Add facts that become known during the run. Raises ResultError as add() does."""
        self.facts = cast(RunFacts, {**self.facts, **facts, "run": self.run})
        self._append({"facts": self.facts})

    def close(self, facts: RunFacts | None = None) -> Path:
        """Write DIR/YYYY-MM/<run>.parquet atomically, remove the spool, and return the path.

        facts: facts known at the end; they update those of the start. Raises ResultError when the
        file cannot be written; the spool then stays for `recover`. A second call does nothing.
        """
        path = run_path(self.directory, self.run)
        with self._lock:
            if self._fd < 0 or self._closing:
                return path
        self.facts = cast(RunFacts, {**self.facts, **(facts or {}), "run": self.run})
        self.facts.setdefault("end", datetime.now(UTC).isoformat())
        self.facts.setdefault("complete", True)
        try:
            self._append({"facts": self.facts}, last=True)
            # The descriptor works even when the spool was deleted meanwhile.
            with os.fdopen(os.dup(self._fd), "rb") as stream:
                stream.seek(0)
                content = _read_spool(stream)
            _convert(self.directory, self.spool, self.run, content)
        finally:
            self._release()
        return path

    def _release(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    def _append(self, entry: dict[str, Any], *, last: bool = False) -> None:
        line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        with self._lock:
            if self._fd < 0 or self._closing:
                raise ResultError(
                    f"run {self.run} is closed: no sample can be added",
                    hint="record samples before the session ends",
                )
            try:
                written = os.pwrite(self._fd, line, self._size)
                if written != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                # A partial line would join the next one and make both unreadable.
                os.ftruncate(self._fd, self._size)
                raise _write_error(self.spool, error) from error
            self._size += len(line)
            self._closing = last


def _create_locked(spool: Path) -> int:
    """Create a spool and lock it; return the descriptor.

    Another session may inspect the spool before it is locked. The lock waits for that, and the
    spool is created again when the other session removed it.
    """
    while True:
        fd = os.open(spool, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), spool.stat()):
                    return fd
        except OSError:
            os.close(fd)
            raise
        os.close(fd)


def recover(directory: Path, problems: list[str] | None = None) -> list[Path]:
    """Convert the spools of dead sessions to run files; return the files.

    Spools of running sessions stay. Those of other machines stay for _MIN_FOREIGN_AGE, since some
    shared file systems do not share locks. The facts get complete=False and, for unreadable lines,
    lost_lines. A spool without any readable line is renamed to *.broken. problems: receives a line
    for each spool that cannot be recovered; it stays.
    """
    recovered: list[Path] = []
    for spool in sorted(Path(directory).glob("*.jsonl")):
        if not RUN_ID.fullmatch(spool.stem):
            continue  # a file of another program
        try:
            with spool.open("r+b") as stream:  # NFS locks only files that are open for writing
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if (path := _recover_spool(Path(directory), spool, stream)) is not None:
                    recovered.append(path)
        except FileNotFoundError:
            continue  # closed or recovered by another session since the listing
        except (OSError, ResultError) as error:
            if problems is not None:
                problems.append(f"{spool} cannot be recovered: {error}")
    return recovered


def _recover_spool(directory: Path, spool: Path, stream: BinaryIO) -> Path | None:
    """Convert the spool of a dead session to a run file; None when it must wait. stream: locked."""
    status = spool.stat()  # FileNotFoundError: closed between the listing and the lock
    age = time.time() - status.st_mtime
    if not status.st_size:
        # Its session may be about to lock it, or has died before it could.
        if age > _MIN_EMPTY_AGE:
            spool.unlink()
        return None
    header = _spool_header(stream.readline())
    if header.get("machine", _machine_id()) != _machine_id() and age < _MIN_FOREIGN_AGE:
        return None
    if (version := _version(header, 1)) > SCHEMA_VERSION:
        raise ResultError(
            f"its schema version is {version}, this harness reads up to {SCHEMA_VERSION}",
            hint="update the harness: pip install --upgrade pytest-hypervisor",
        )
    stream.seek(0)
    content = _read_spool(stream)
    if not (content.facts or content.rows):
        spool.rename(spool.with_suffix(".broken"))
        return None
    return _convert(directory, spool, spool.stem, content)


def _machine_id() -> str:
    """The id of this machine among those that write into a store."""
    with contextlib.suppress(OSError):
        return Path("/etc/machine-id").read_text(encoding="ascii").strip() or platform.node()
    return platform.node()


def _spool_header(line: bytes) -> dict[str, Any]:
    """The first line of a spool: facts, machine and version; {} when it cannot be read."""
    try:
        header = json.loads(line)
        return header if isinstance(header, dict) else {}
    except ValueError:
        return {}


def _version(header: dict[str, Any], default: int) -> int:
    """The schema version in a line with facts. Older spools have none; nor has their last line."""
    version = header.get("version", default)
    return version if type(version) is int else default


class _SpoolContent(NamedTuple):
    """The newest facts, the rows, and the number of unreadable lines."""

    facts: RunFacts
    rows: list[dict[str, Any]]
    lost: int


def _read_spool(stream: BinaryIO) -> _SpoolContent:
    facts: RunFacts = {}
    rows: list[dict[str, Any]] = []
    lost = 0
    version = 1  # of a spool without a header
    for line in stream:
        try:
            entry = json.loads(line, parse_constant=_refuse_constant)
            if "facts" in entry:
                facts = cast(RunFacts, dict(entry["facts"]))
                version = _version(entry, version)
                continue
            entry = migrate_row(entry, version)
            entry["time"] = datetime.fromisoformat(entry["time"])
            row = {name: entry[name] for name in COLUMNS}
            if any(type(row[name]) not in types for name, types in _TYPES.items()):
                raise ValueError("a value of a wrong type")
            rows.append(row)
        except (ValueError, KeyError, TypeError):
            lost += 1
    return _SpoolContent(facts, rows, lost)


def _refuse_constant(text: str) -> float:
    """Python's parser accepts NaN and Infinity, which JSON does not have."""
    raise ValueError(f"a number must be finite, not {text}")


def _convert(directory: Path, spool: Path, run: str, content: _SpoolContent) -> Path:
    """Write the run file and remove the spool."""
    if (path := run_path(directory, run)).exists():  # an earlier conversion left the spool
        with contextlib.suppress(OSError):
            spool.unlink()
        return path
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a killed conversion
        leftover.unlink(missing_ok=True)
    facts, rows, lost = content
    facts["run"] = run
    facts.setdefault("complete", False)
    if lost:
        facts["lost_lines"] = lost
    return _write(directory, run, facts, rows, spool)


def write_run(directory: Path, facts: RunFacts, samples: Iterable[Sample]) -> Path:
    """Write a complete run; facts["run"] is its id.

    Raises ResultError, and writes nothing, when the store has the run already or cannot be written.
    """
    run = facts["run"]
    path = run_path(directory, run)
    if path.exists():
        raise ResultError(
            f"{directory} has the run {run} already",
            hint="remove the stored run first if it is a different one",
        )
    return _write(directory, run, facts, [sample.row() for sample in samples])


def _write(
    directory: Path,
    run: str,
    facts: RunFacts,
    rows: list[dict[str, Any]],
    spool: Path | None = None,
) -> Path:
    """Write the run file atomically; remove the spool."""
    path = run_path(directory, run)
    try:
        table = pa.Table.from_pylist(rows, schema=SCHEMA).cast(schema_with_metadata(run, facts))
        with atomic_write(path, sync=True) as partial:
            pq.write_table(
                table,
                partial,
                compression="zstd",
                use_dictionary=_DICTIONARY_COLUMNS,
                write_page_checksum=True,
            )
    except (OSError, pa.ArrowException) as error:
        raise _write_error(path, error, spool=spool) from error
    if spool is not None:
        with contextlib.suppress(OSError):  # the run is stored; a leftover spool does no harm
            spool.unlink()
    return path


def _write_error(path: Path, error: Exception, *, spool: Path | None = None) -> ResultError:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "free space there" if full else "make the directory writable"
    if spool:
        hint += f"; the samples stay in {spool} and the next run converts them"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ResultError(f"results cannot be written to {path}: {reason}", hint=hint)
