"""How a run's samples come into the store: a spool while it is at work, one Parquet file then.

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
import platform
import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import ResultError
from harness.results.atomic_write import whole
from harness.results.schema import (
    COLUMNS,
    SCHEMA,
    SCHEMA_VERSION,
    RunFacts,
    Sample,
    lacking,
    with_metadata,
)
from harness.results.store import RUN_ID, new_run_id, target

_REPEATED = [name for name in COLUMNS if name != "value"]  # measured values hardly ever are
_FOREIGN = 7 * 86400.0  # seconds that another machine's spool must have been untouched
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(COLUMNS, (str,)),
    **{"value": (float, int), "time": (datetime,)},
    **dict.fromkeys(("boot", "batch", "attempt"), (int,)),
}
_STILLBORN = 60.0  # seconds after which an empty spool is that of a session that died at its start


class RunWriter:
    """Takes a run's samples and, at close, makes them one Parquet file. Safe to use from threads.

    Args:
        directory: the store; made when missing.
        facts: what is known of the run at its start; `run` and `start` are filled in.

    Raises ResultError when the store cannot be written.
    """

    def __init__(self, directory: Path, facts: RunFacts, *, run: str | None = None) -> None:
        self.directory = Path(directory)
        self.run = new_run_id() if run is None else run
        target(self.directory, self.run)  # refuses a malformed run id before anything is written
        self.facts: RunFacts = {**facts, "run": self.run}
        self.facts.setdefault("start", datetime.now(UTC).isoformat())
        self.spool = self.directory / f"{self.run}.jsonl"
        self._lock = threading.Lock()
        try:
            self.spool.parent.mkdir(parents=True, exist_ok=True)
            self._fd = _locked(self.spool)
        except OSError as error:
            raise _unwritable(self.spool, error) from error
        self._size = 0
        self._closing = False
        self.count = 0
        self._append({"facts": self.facts, "machine": _machine(), "version": SCHEMA_VERSION})

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

    def close(self, facts: RunFacts | None = None) -> Path:
        """Write DIR/YYYY-MM/<run>.parquet, atomically, and remove the spool; return the path.

        facts: what is known at the end; laid over those of the start. Raises ResultError when
        the file cannot be written; the spool then stays for `recover`. A second call is harmless.
        """
        made = target(self.directory, self.run)
        with self._lock:
            if self._fd < 0 or self._closing:
                return made
        self.facts = cast(RunFacts, {**self.facts, **(facts or {}), "run": self.run})
        self.facts.setdefault("end", datetime.now(UTC).isoformat())
        self.facts.setdefault("complete", True)
        try:
            self._append({"facts": self.facts}, last=True)
            # by the descriptor: somebody may have tidied the spool away
            with os.fdopen(os.dup(self._fd), "rb") as stream:
                stream.seek(0)
                lines = _lines(stream)
            _convert(self.directory, self.spool, self.run, lines)
        finally:
            self._release()
        return made

    def _release(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    def _append(self, entry: dict[str, Any], *, last: bool = False) -> None:
        line = (json.dumps(entry, allow_nan=False) + "\n").encode()
        with self._lock:
            if self._fd < 0 or self._closing:
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
            self._closing = last


def _locked(spool: Path) -> int:
    """A new spool's descriptor. Between its making and its lock another session may look at it:
    the lock waits for that, and the spool is made again if it was taken for a dead one's."""
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
    """Turn the spools that dead sessions left into run files; return the files made.

    Spools of living sessions are left alone, and those of other machines for _FOREIGN: not every
    shared file system tells of their locks. The facts say complete=False and, when lines were cut,
    lost_lines. A spool with not one readable line is renamed to *.broken. problems: takes a line
    for each spool that cannot be recovered, and stays.
    """
    made: list[Path] = []
    for spool in sorted(Path(directory).glob("*.jsonl")):
        if not RUN_ID.fullmatch(spool.stem):
            continue  # not one of ours
        try:
            with spool.open("r+b") as held:  # over NFS a lock needs one that is open for writing
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if (path := _recovered(Path(directory), spool, held)) is not None:
                    made.append(path)
        except FileNotFoundError:
            continue  # its session, or another that recovers, closed it after our listing
        except (OSError, ResultError) as error:
            if problems is not None:
                problems.append(f"{spool} cannot be recovered: {error}")
    return made


def _recovered(directory: Path, spool: Path, held: BinaryIO) -> Path | None:
    """A dead session's spool, locked by us, made a run file."""
    found = spool.stat()  # FileNotFoundError: closed between our listing and our lock
    age = time.time() - found.st_mtime
    if not found.st_size:
        # made by a session that has not locked it yet, unless that died in between
        if age > _STILLBORN:
            spool.unlink()
        return None
    begun = _begun(held.readline())
    if begun.get("machine", _machine()) != _machine() and age < _FOREIGN:
        return None
    if (version := begun.get("version", 1)) > SCHEMA_VERSION:
        raise ResultError(f"it is of schema version {version}, of a newer harness")
    held.seek(0)
    lines = _lines(held)
    if not (lines[0] or lines[1]):
        spool.rename(spool.with_suffix(".broken"))
        return None
    return _convert(directory, spool, spool.stem, lines)


def _machine() -> str:
    """Which one this is, among those that write into a store."""
    with contextlib.suppress(OSError):
        return Path("/etc/machine-id").read_text(encoding="ascii").strip() or platform.node()
    return platform.node()


def _begun(line: bytes) -> dict[str, Any]:
    """What a spool's first line says of who writes it; {} of those before they said so."""
    try:
        found = json.loads(line)
        return found if isinstance(found, dict) and type(found.get("version")) is int else {}
    except ValueError:
        return {}


Lines = tuple[RunFacts, list[dict[str, Any]], int]


def _lines(stream: BinaryIO) -> Lines:
    """Facts (the last told), rows, and how many lines could not be read."""
    facts: RunFacts = {}
    rows: list[dict[str, Any]] = []
    lost = 0
    older = lacking(1)
    for line in stream:
        try:
            entry = json.loads(line, parse_constant=_no_number)
            if "facts" in entry:
                facts = cast(RunFacts, dict(entry["facts"]))
                continue
            entry = {**older, **entry, "time": datetime.fromisoformat(entry["time"])}
            row = {name: entry[name] for name in COLUMNS}
            row["better"] = row["better"] or "none"  # lines of older versions have ""
            if any(type(row[name]) not in kinds for name, kinds in _KINDS.items()):
                raise ValueError("a value of a wrong type")
            rows.append(row)
        except (ValueError, KeyError, TypeError):
            lost += 1
    return facts, rows, lost


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _convert(directory: Path, spool: Path, run: str, lines: Lines) -> Path:
    """Spool to Parquet; the spool is removed."""
    if (there := target(directory, run)).exists():  # whoever did it could not remove the spool
        with contextlib.suppress(OSError):
            spool.unlink()
        return there
    for left in there.parent.glob(f".{there.name}.*.tmp"):  # by one that was killed meanwhile
        left.unlink(missing_ok=True)
    facts, rows, lost = lines
    facts["run"] = run
    facts.setdefault("complete", False)
    if lost:
        facts["lost_lines"] = lost
    return _write(directory, run, facts, rows, spool)


def keep(directory: Path, facts: RunFacts, samples: Iterable[Sample]) -> Path:
    """A whole run at once, by facts["run"]. Raises ResultError, with nothing written, when the
    store has that run already or cannot be written."""
    run = facts["run"]
    path = target(directory, run)
    if path.exists():
        raise ResultError(
            f"{directory} has the run {run} already", hint="Remove it first, if it is not the same."
        )
    return _write(directory, run, facts, [sample.row() for sample in samples])


def _write(
    directory: Path,
    run: str,
    facts: RunFacts,
    rows: list[dict[str, Any]],
    spool: Path | None = None,
) -> Path:
    """Written beside its place, forced to the disk, renamed."""
    path = target(directory, run)
    try:
        table = pa.Table.from_pylist(rows, schema=SCHEMA).cast(with_metadata(run, facts))
        with whole(path, sync=True) as partial:
            pq.write_table(
                table,
                partial,
                compression="zstd",
                use_dictionary=_REPEATED,
                write_page_checksum=True,
            )
    except (OSError, pa.ArrowException) as error:
        raise _unwritable(path, error, kept=spool) from error
    if spool is not None:
        with contextlib.suppress(OSError):  # somebody else's, or gone: the run is safe by now
            spool.unlink()
    return path


def _unwritable(path: Path, error: Exception, *, kept: Path | None = None) -> ResultError:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "Free space there" if full else "Make the place writable"
    if kept:
        hint += f"; the samples are safe in {kept} and the next run will convert them"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ResultError(f"results cannot be written to {path}: {reason}", hint=hint + ".")
