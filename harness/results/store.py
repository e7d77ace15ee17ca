"""Where samples are kept: one immutable Parquet file a run, by month; DuckDB reads them in place.

    DIR/2026-11/20261123T091502Z-3fa9c1.parquet    a run, closed
    DIR/20261123T091502Z-3fa9c1.jsonl              its spool (spool.py)

Files of older schema versions are brought up to the present one as they are read. Of a test that
was run once more only the last attempt is read: the earlier ones stay in the file, and take no part
in figures. Values that are no finite numbers, which only others can have written, are left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import cast

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import ResultError
from harness.results.schema import (
    BETTER_IS_NAMED,
    COLUMNS,
    FACTS_KEY,
    SCHEMA,
    SCHEMA_VERSION,
    VERSION_KEY,
    RunFacts,
    lacking,
    sound_facts,
)
from harness.results.statistics import BOOT, KEYS, UTILIZATION

RUN_ID = re.compile(r"(\d{4})(\d{2})\d{2}T\d{6}Z-[0-9a-f]{6}")
_TEST = ["run", "test", "hypervisor"]  # what an attempt is of: with its parameters in its name
# a table without rows
_NOTHING = ", ".join(
    f'CAST(NULL AS {"DOUBLE" if name == "value" else "VARCHAR"}) AS "{name}"' for name in COLUMNS
)
# what DuckDB says of the words of a query, not of the files
_WORDING = (
    duckdb.ParserException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConversionException,
)


def new_run_id(now: datetime | None = None) -> str:
    """UTC time and a random suffix: sorts by time, never twice the same."""
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def target(directory: Path, run: str) -> Path:
    """Where a run's file is. Raises ResultError for what is no run id."""
    match = RUN_ID.fullmatch(run)
    if not match:
        raise ResultError(f"{run!r} is no run id (expected 20261123T091502Z-3fa9c1)")
    return directory / f"{match[1]}-{match[2]}" / f"{run}.parquet"


def runs(directory: Path) -> list[Path]:
    """The run files of a store, oldest first, whether they can be read or not."""
    found = Path(directory).glob("[0-9][0-9][0-9][0-9]-[0-9][0-9]/*.parquet")
    return sorted((path for path in found if RUN_ID.fullmatch(path.stem)), key=lambda p: p.stem)


def load(path: Path, run: str | None = None) -> tuple[RunFacts, pd.DataFrame]:
    """One run: its facts and its samples (columns as in schema.COLUMNS, parameters as JSON text).

    path: a run's file, or a store: then `run` names the run, or the newest is taken. Raises
    ResultError when there is none, or the file is broken or of a newer schema version. The facts'
    notes say how many values were no finite numbers.
    """
    path = Path(path)
    if path.is_dir():
        path = _find(path, run)
    footer = _footer(path)
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    for name, value in lacking(footer.version).items():
        kind = SCHEMA.field(name)
        table = table.append_column(kind, pa.repeat(pa.scalar(value, kind.type), len(table)))
    frame: pd.DataFrame = table.select(list(COLUMNS)).to_pandas()
    if footer.version < BETTER_IS_NAMED:
        frame["better"] = frame["better"].replace("", "none")
    facts = cast(RunFacts, json.loads(footer.facts))
    finite = np.isfinite(frame["value"].to_numpy(dtype=np.float64, na_value=np.nan))
    if lost := int((~finite).sum()):
        said = "samples are not finite numbers" if lost > 1 else "sample is not a finite number"
        facts["notes"] = [*facts.get("notes", []), f"{lost} {said}: left out"]
    if footer.attempts > 1:
        last = frame.groupby(_TEST, dropna=False)["attempt"].transform("max")
        finite &= ((frame["attempt"] == last) | (frame["test"] == "")).to_numpy()
    return facts, frame if finite.all() else frame[finite].reset_index(drop=True)


def facts_of(path: Path) -> RunFacts:
    """What is known of a run; its samples are not read. Raises ResultError as load does."""
    return cast(RunFacts, json.loads(_footer(Path(path)).facts))


def usable(files: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Those of some run files that can be read, and for each of the others why not. What is broken
    in the middle of a file is found only when that is read."""
    return _sift(files, facts_of)


def boot_medians(files: Sequence[Path], problems: list[str] | None = None) -> pd.DataFrame:
    """One row a boot and KEYS of several runs: KEYS, run, boot, value (the boot's median), n (its
    samples). Utilization is left out.

    problems: takes a line for each file that cannot be read, and is left out. Raises ResultError
    when none can.
    """
    keys = ", ".join(f'"{name}"' for name in (*KEYS, *BOOT))
    return _ask(
        files,
        f"SELECT {keys}, median(value) AS value, count(*) AS n FROM samples "  # noqa: S608 - ours
        f"WHERE NOT regexp_matches(metric, '^{UTILIZATION}') GROUP BY ALL ORDER BY ALL",
        problems,
    )


def query(directory: Path, sql: str, problems: list[str] | None = None) -> pd.DataFrame:
    """SQL over a whole store, by DuckDB, in place and offline.

    Views: samples (columns as in schema.COLUMNS) and runs (run, facts as JSON text). problems: as
    of boot_medians. Raises ResultError when there are no runs, or the SQL is wrong.
    """
    files = runs(directory)
    if not files:
        raise ResultError(
            f"{directory} holds no runs", hint="Run a suite with --virt-results first."
        )
    return _ask(files, sql, problems)


# -- SQL -----------------------------------------------------------------------------------------


def _ask(files: Sequence[Path], sql: str, problems: list[str] | None) -> pd.DataFrame:
    """SQL over those of some run files that can be read."""
    good, told = usable(files)
    try:
        try:
            answer = _answer(good, sql) if good or not files else None
        except _WORDING:
            raise
        except duckdb.Error:
            good, more = _sift(good, load)  # one is broken where only its reader finds out
            if not more:
                raise
            told += more
            answer = _answer(good, sql) if good else None
    except duckdb.Error as error:
        raise ResultError(f"the query failed: {error}") from error
    if answer is None:
        raise ResultError(
            f"none of {len(files)} run files can be read: {told[0]}",
            hint="Restore them, or name another store.",
        )
    if problems is not None:
        problems += told
    return answer


@cache
def _database(_process: int) -> duckdb.DuckDBPyConnection:
    """Started once: that takes longer than to ask for a series. A forked process needs its own."""
    made = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})
    made.execute("SET parquet_metadata_cache = true")
    return made


def _answer(files: Sequence[Path], sql: str) -> pd.DataFrame:
    with contextlib.closing(_database(os.getpid()).cursor()) as connection:
        connection.execute(f"CREATE TEMP VIEW samples AS {_samples(files)}")
        about = {"run": [path.stem for path in files], "facts": [_footer(p).facts for p in files]}
        connection.register("runs", pd.DataFrame(about, dtype=str))
        return connection.execute(sql).df()


def _samples(files: Iterable[Path]) -> str:
    """SQL, of names that are all ours, for the samples of files: those of one version are read as
    one table, with what they lack; only where a test was run once more must its attempts be looked
    at."""
    alike: dict[tuple[int, bool], list[str]] = {}
    for path in files:
        footer = _footer(path)
        alike.setdefault((footer.version, footer.attempts > 1), []).append(str(path))
    parts: list[str] = []
    for (version, retried), paths in alike.items():
        converted = {name: repr(value) for name, value in lacking(version).items()}
        if version < BETTER_IS_NAMED:
            converted["better"] = "CASE better WHEN '' THEN 'none' ELSE better END"
        columns = ", ".join(
            f'{converted[name]} AS "{name}"' if name in converted else f'"{name}"'
            for name in COLUMNS
        )
        listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
        part = f"SELECT {columns} FROM read_parquet([{listed}]) WHERE isfinite(value)"  # noqa: S608
        if retried:
            last = f"max(attempt) OVER (PARTITION BY {', '.join(_TEST)})"
            part = f"SELECT * FROM ({part}) QUALIFY test = '' OR attempt = {last}"  # noqa: S608
        parts.append(part)
    return " UNION ALL ".join(parts) or f"SELECT {_NOTHING} WHERE false"


# -- files ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Footer:
    """What a run file's end says. facts: JSON text. attempts: the most of any test."""

    version: int
    facts: str
    attempts: int


def _footer(path: Path) -> _Footer:
    """Raises ResultError when the file is broken, not ours, or of a newer version."""
    try:
        found = path.stat()
        return _read_footer(path, found.st_mtime_ns, found.st_size)
    except FileNotFoundError as error:
        raise ResultError(f"{path}: no such run file") from error
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


@lru_cache(maxsize=4096)
def _read_footer(path: Path, _changed: int, _size: int) -> _Footer:
    """Run files never change: a store that is asked again need not be read again."""
    metadata = pq.read_metadata(path)
    schema = metadata.schema.to_arrow_schema()
    version = _version(path, schema.metadata or {})
    expected = pa.schema([field for field in SCHEMA if field.name not in lacking(version)])
    for field in expected:
        place = schema.get_field_index(field.name)
        if place < 0 or schema.field(place).type != field.type:
            raise ResultError(
                f"{path} is no run file of ours: its column {field.name} is "
                + (f"of type {schema.field(place).type}" if place >= 0 else "missing")
                + f", expected {field.type}",
                hint="Restore it, or take another run.",
            )
    return _Footer(version, _facts(path, schema.metadata), _attempts(metadata))


def _version(path: Path, metadata: dict[bytes, bytes]) -> int:
    text = metadata.get(VERSION_KEY, b"").decode(errors="replace")
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise ResultError(
            f"{path} is no run file of ours: its schema version is {text or 'none'}",
            hint="Take another run.",
        )
    if int(text) > SCHEMA_VERSION:
        raise ResultError(
            f"{path}: schema version is {text}, this harness reads up to {SCHEMA_VERSION}",
            hint="Update the harness: pip install --upgrade pytest-hypervisor.",
        )
    return int(text)


def _facts(path: Path, metadata: dict[bytes, bytes]) -> str:
    try:
        text = metadata[FACTS_KEY].decode()
        sound_facts(json.loads(text))
    except (KeyError, ValueError) as error:
        raise ResultError(
            f"{path} is no run file of ours: its facts cannot be read ({error})",
            hint="Restore it, or take another run.",
        ) from error
    return text


def _attempts(metadata: pq.FileMetaData) -> int:
    """The most attempts that any test of a file took; 2 where its footer does not say."""
    names = metadata.schema.names
    if "attempt" not in names:
        return 1
    place = names.index("attempt")
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    found = [group.column(place).statistics for group in groups if group.num_rows]
    return max((s.max if s and s.has_min_max else 2 for s in found), default=1)


def _sift(files: Sequence[Path], read: Callable[[Path], object]) -> tuple[list[Path], list[str]]:
    good: list[Path] = []
    problems: list[str] = []
    for path in files:
        try:
            read(path)
        except ResultError as error:
            problems.append(f"left out: {error.cause}")
        else:
            good.append(path)
    return good, problems


def _unreadable(path: Path, error: Exception) -> ResultError:
    return ResultError(
        f"{path} is no readable Parquet file: {error}", hint="Restore it, or take another run."
    )


def _find(directory: Path, run: str | None) -> Path:
    found = runs(directory)
    if run is not None:
        found = [path for path in found if path.stem == run]
    if not found:
        raise ResultError(
            f"{directory} holds no run" + (f" {run}" if run else "s"),
            hint="Run a suite with --virt-results first, or name another run.",
        )
    return found[-1]
