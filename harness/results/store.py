"""The store: one immutable Parquet file for each run, in a folder for each month.

    DIR/2026-11/20261123T091502Z-3fa9c1.parquet    a closed run
    DIR/20261123T091502Z-3fa9c1.jsonl              the spool of a running session (spool.py)

DuckDB queries the files in place. Older schema versions are converted when they are read. Only the
last attempt of a test is read; earlier attempts stay in the file. Values that are not finite
numbers, which other programs may have written, are excluded.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import cast

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import ResultError
from harness.results.migrations import SQL_MACROS, columns_of, migrate_frame, sql_columns
from harness.results.schema import (
    COLUMNS,
    FACTS_KEY,
    SCHEMA,
    SCHEMA_VERSION,
    VERSION_KEY,
    RunFacts,
    validate_facts,
)
from harness.results.statistics import BOOT, KEYS, UTILIZATION

RUN_ID = re.compile(r"(\d{4})(\d{2})\d{2}T\d{6}Z-[0-9a-f]{6}")
_ITEM = ["run", "item", "hypervisor"]  # what attempts are counted by
# the columns of a table without rows
_EMPTY_COLUMNS = ", ".join(
    f'CAST(NULL AS {"DOUBLE" if name == "value" else "VARCHAR"}) AS "{name}"' for name in COLUMNS
)
# DuckDB errors that are caused by the query, not by the files
_QUERY_ERRORS = (
    duckdb.ParserException,
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConversionException,
)


def run_path(directory: Path, run: str) -> Path:
    """The path of a run's file. Raises ResultError when `run` is not a run id."""
    match = RUN_ID.fullmatch(run)
    if not match:
        raise ResultError(
            f"a run id must have a time and a suffix, not {run!r}",
            hint="use an id of the form 20261123T091502Z-3fa9c1",
        )
    return directory / f"{match[1]}-{match[2]}" / f"{run}.parquet"


def runs(directory: Path) -> list[Path]:
    """The run files of a store, oldest first, including files that cannot be read."""
    files = Path(directory).glob("[0-9][0-9][0-9][0-9]-[0-9][0-9]/*.parquet")
    return sorted((path for path in files if RUN_ID.fullmatch(path.stem)), key=lambda p: p.stem)


def load(path: Path, run: str | None = None) -> tuple[RunFacts, pd.DataFrame]:
    """The facts and samples of one run (columns as in schema.COLUMNS, parameters as JSON text).

    path: a run's file or a store. run: the run to load from a store (default: the newest). The
    facts' notes include the number of values that are not finite. Raises ResultError when there is
    no run, or when the file is broken or has a newer schema version.
    """
    path = Path(path)
    if path.is_dir():
        path = _find_run(path, run)
    footer = _footer(path)
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    frame = migrate_frame(table.select(columns_of(footer.version)).to_pandas(), footer.version)
    facts = cast(RunFacts, json.loads(footer.facts))
    finite = np.isfinite(frame["value"].to_numpy(dtype=np.float64, na_value=np.nan))
    if lost := int((~finite).sum()):
        noun = "samples that are not finite" if lost > 1 else "sample that is not finite"
        facts["notes"] = [*facts.get("notes", []), f"{lost} {noun} excluded"]
    if footer.retried:
        last = frame.groupby(_ITEM, dropna=False)["attempt"].transform("max")
        # the last attempt may have no samples
        named = frame["item"].map(facts.get("attempts", {})).fillna(0)
        last = last.where(last > named, named)
        finite &= ((frame["attempt"] == last) | (frame["item"] == "")).to_numpy()
    return facts, frame if finite.all() else frame[finite].reset_index(drop=True)


def facts_of(path: Path) -> RunFacts:
    """The facts of a run, without reading its samples. Raises ResultError as `load` does."""
    return cast(RunFacts, json.loads(_footer(Path(path)).facts))


def readable_files(files: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The files whose facts can be read, and one line for each other file with the reason.

    Damage in the middle of a file is detected only when its samples are read.
    """
    return _partition(files, facts_of)


def boot_medians(files: Sequence[Path], problems: list[str] | None = None) -> pd.DataFrame:
    """The median of each boot of several runs: KEYS, run, boot, value, n (number of samples).

    Utilization is excluded. problems: receives a line for each file that cannot be read. Raises
    ResultError when no file can be read.
    """
    keys = ", ".join(f'"{name}"' for name in (*KEYS, *BOOT))
    return _query_files(
        files,
        f"SELECT {keys}, median(value) AS value, count(*) AS n FROM samples "  # noqa: S608 - ours
        f"WHERE NOT regexp_matches(metric, '^{UTILIZATION}') GROUP BY ALL ORDER BY ALL",
        problems,
    )


def query(directory: Path, sql: str, problems: list[str] | None = None) -> pd.DataFrame:
    """Run a DuckDB query over a whole store.

    Views: samples (columns as in schema.COLUMNS) and runs (run, facts as JSON text). problems: as
    in `boot_medians`. Raises ResultError when there are no runs, and when the SQL is invalid.
    """
    files = runs(directory)
    if not files:
        raise ResultError(
            f"{directory} holds no runs", hint="run a suite with --virt-results first"
        )
    return _query_files(files, sql, problems)


# -- SQL -----------------------------------------------------------------------------------------


def _query_files(files: Sequence[Path], sql: str, problems: list[str] | None) -> pd.DataFrame:
    """Run a query over the files that can be read."""
    good, errors = readable_files(files)
    try:
        try:
            result = _execute(good, sql) if good or not files else None
        except _QUERY_ERRORS:
            raise
        except duckdb.Error:
            good, damaged = _partition(good, load)  # some file is damaged behind its footer
            if not damaged:
                raise
            errors += damaged
            result = _execute(good, sql) if good else None
    except duckdb.Error as error:
        raise ResultError(
            f"the query failed: {error}", hint="correct the query; its views are samples and runs"
        ) from error
    if result is None:
        raise ResultError(
            f"none of {len(files)} run files can be read: {errors[0]}",
            hint="restore them, or name another store",
        )
    if problems is not None:
        problems += errors
    return result


@cache
def _database(_process: int) -> duckdb.DuckDBPyConnection:
    """A database for this process: starting one takes longer than a query. A fork needs its own."""
    database = duckdb.connect(":memory:", config={"autoinstall_known_extensions": False})
    database.execute("SET parquet_metadata_cache = true")
    return database


def _execute(files: Sequence[Path], sql: str) -> pd.DataFrame:
    with contextlib.closing(_database(os.getpid()).cursor()) as connection:
        connection.execute(SQL_MACROS)
        connection.register("last_attempts", _last_attempts(files))
        connection.execute(f"CREATE TEMP VIEW samples AS {_samples_sql(files)}")
        table = {"run": [path.stem for path in files], "facts": [_footer(p).facts for p in files]}
        connection.register("runs", pd.DataFrame(table, dtype=str))
        return connection.execute(sql).df()


def _samples_sql(files: Iterable[Path]) -> str:
    """SQL for the samples of files. It contains constants and quoted paths only.

    Files of one version are read as one table, with the added columns. Attempts are filtered only
    in files that have more than one.
    """
    groups: dict[tuple[int, bool], list[str]] = {}
    for path in files:
        footer = _footer(path)
        groups.setdefault((footer.version, footer.retried), []).append(str(path))
    parts: list[str] = []
    for (version, retried), paths in groups.items():
        columns = sql_columns(version)
        names = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
        part = f"SELECT {columns} FROM read_parquet([{names}]) WHERE isfinite(value)"  # noqa: S608
        if retried:
            # the last attempt may have no samples
            last = f"greatest(last, max(attempt) OVER (PARTITION BY {', '.join(_ITEM)}))"
            part = (
                f"SELECT * EXCLUDE (last) FROM ({part}) "  # noqa: S608
                "LEFT JOIN last_attempts USING (run, item) "
                f"QUALIFY item = '' OR attempt = {last}"
            )
        parts.append(part)
    return " UNION ALL ".join(parts) or f"SELECT {_EMPTY_COLUMNS} WHERE false"


def _last_attempts(files: Iterable[Path]) -> pd.DataFrame:
    """The table last_attempts: run, item, last."""
    footers = map(_footer, files)
    known = (json.loads(footer.facts) for footer in footers if footer.retried)
    rows = [
        (facts.get("run", ""), item, last)
        for facts in known
        for item, last in facts.get("attempts", {}).items()
    ]
    return pd.DataFrame(rows, columns=["run", "item", "last"]).astype(
        {"run": str, "item": str, "last": "int64"}
    )


# -- files ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Footer:
    """The metadata of a run file. facts: JSON text. retried: whether an item ran twice."""

    version: int
    facts: str
    retried: bool


def _footer(path: Path) -> _Footer:
    """Raises ResultError when the file is broken, not a run file, or of a newer schema version."""
    try:
        status = path.stat()
        return _read_footer(path, status.st_mtime_ns, status.st_size)
    except FileNotFoundError as error:
        raise ResultError(
            f"{path}: no such run file",
            hint="use `python -m harness report index` to list the runs",
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


@lru_cache(maxsize=4096)
def _read_footer(path: Path, _mtime: int, _size: int) -> _Footer:
    """Run files are immutable, so the cache is keyed by path, time and size."""
    metadata = pq.read_metadata(path)
    schema = metadata.schema.to_arrow_schema()
    version = _version(path, schema.metadata or {})
    expected = pa.schema([SCHEMA.field(name) for name in columns_of(version)])
    for field in expected:
        place = schema.get_field_index(field.name)
        if place < 0 or schema.field(place).type != field.type:
            raise ResultError(
                f"{path} must be a run file: its column {field.name} is "
                + (f"of type {schema.field(place).type}" if place >= 0 else "missing")
                + f", expected {field.type}",
                hint="restore it, or name another run",
            )
    facts = _facts(path, schema.metadata)
    retried = _attempts(metadata) > 1 or bool(json.loads(facts).get("attempts"))
    return _Footer(version, facts, retried)


def _version(path: Path, metadata: dict[bytes, bytes]) -> int:
    text = metadata.get(VERSION_KEY, b"").decode(errors="replace")
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise ResultError(
            f"{path} must be a run file: its schema version is {text or 'none'}",
            hint="name another run",
        )
    if int(text) > SCHEMA_VERSION:
        raise ResultError(
            f"{path}: schema version is {text}, this harness reads up to {SCHEMA_VERSION}",
            hint="update the harness: pip install --upgrade pytest-hypervisor",
        )
    return int(text)


def _facts(path: Path, metadata: dict[bytes, bytes]) -> str:
    try:
        text = metadata[FACTS_KEY].decode()
        validate_facts(json.loads(text))
    except (KeyError, ValueError) as error:
        raise ResultError(
            f"{path} must be a run file: its facts cannot be read ({error})",
            hint="restore it, or name another run",
        ) from error
    return text


def _attempts(metadata: pq.FileMetaData) -> int:
    """The maximum of the column attempt; 2 when the footer has no statistics."""
    names = metadata.schema.names
    if "attempt" not in names:
        return 1
    place = names.index("attempt")
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    statistics = [group.column(place).statistics for group in groups if group.num_rows]
    return max((s.max if s and s.has_min_max else 2 for s in statistics), default=1)


def _partition(
    files: Sequence[Path], read: Callable[[Path], object]
) -> tuple[list[Path], list[str]]:
    """The files that `read` accepts, and a line for each other file."""
    good: list[Path] = []
    problems: list[str] = []
    for path in files:
        try:
            read(path)
        except ResultError as error:
            problems.append(f"excluded: {error.cause}")
        else:
            good.append(path)
    return good, problems


def _unreadable(path: Path, error: Exception) -> ResultError:
    return ResultError(
        f"{path} must be a readable Parquet file: {error}", hint="restore it, or name another run"
    )


def _find_run(directory: Path, run: str | None) -> Path:
    files = runs(directory)
    if run is not None:
        files = [path for path in files if path.stem == run]
    if not files:
        raise ResultError(
            f"{directory} holds no run" + (f" {run}" if run else "s"),
            hint="run a suite with --virt-results first, or name another run",
        )
    return files[-1]
