"""The data folder on disk: written completely or not at all, and read by all other commands."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import PlanError
from harness.planner.trace import (
    DATA_VERSION,
    HOSTS,
    MACHINES,
    TRACE,
    Finding,
    Import,
    Source,
)

IMPORT_FILE = "import.json"
_IMPORT_AGAIN = "import the data again: python -m harness plan import"
_ROW_GROUP = 1 << 17
_MAX_IMPORT_BYTES = 64 << 20


class DataFolder:
    """A data folder that exists. Raises PlanError when it is none, or has another version."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.description = _read_import(path)

    def machines(self) -> pa.Table:
        """The inventory, with the schema trace.MACHINES."""
        return self._table("machines.parquet", MACHINES)

    def hosts(self) -> pa.Table | None:
        """The hosts of today, with the schema trace.HOSTS; None where no source names them."""
        if not (self.path / "hosts.parquet").exists():
            return None
        return self._table("hosts.parquet", HOSTS)

    def trace_files(self) -> list[Path]:
        """Files with the schema trace.TRACE, sorted by machine and time. Empty buckets have none.

        All samples of a machine are in one file. Times are multiples of the step.
        """
        return sorted((self.path / "trace").glob("[0-9][0-9].parquet"))

    def _table(self, name: str, schema: pa.Schema) -> pa.Table:
        try:
            return pq.read_table(self.path / name).select(schema.names).cast(schema)
        except (OSError, KeyError, pa.ArrowException) as error:
            raise PlanError(
                f"{self.path / name} cannot be read: {error}", hint=_IMPORT_AGAIN
            ) from (error)


class NewDataFolder:
    """A data folder that is being written. It has its final name only after `finish`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "trace").mkdir(parents=True)

    @property
    def scratch(self) -> Path:
        """A path for files that are not kept."""
        return self.path / "scratch"

    def write_trace(self, bucket: int, table: pa.Table) -> None:
        """Write one bucket: all samples of its machines, sorted by machine and time."""
        pq.write_table(
            table.cast(TRACE),
            self.path / "trace" / f"{bucket:02}.parquet",
            row_group_size=_ROW_GROUP,
            use_dictionary=["vm"],
            column_encoding={"time": "DELTA_BINARY_PACKED"},
            compression="zstd",
            compression_level=1,
        )

    def write_inventory(self, machines: pa.Table, hosts: pa.Table) -> None:
        pq.write_table(machines, self.path / "machines.parquet")
        if len(hosts):
            pq.write_table(hosts, self.path / "hosts.parquet")

    def write_description(self, description: Import) -> None:
        text = json.dumps(asdict(description), indent=1, ensure_ascii=False)
        (self.path / IMPORT_FILE).write_text(f"{text}\n", encoding="utf-8")


@contextlib.contextmanager
def new_data_folder(out: Path, *, replace: bool = False) -> Iterator[NewDataFolder]:
    """Yield a folder beside `out`; rename it to `out` at the end of the block.

    After an error nothing is left. replace: whether a data folder at `out` may be replaced, after
    the block has succeeded. Raises PlanError when `out` exists otherwise, and when the disk cannot
    take the data.
    """
    out = out.absolute()
    _check_target(out, replace=replace)
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        folder = NewDataFolder(partial)
        yield folder
        shutil.rmtree(folder.scratch, ignore_errors=True)
        _check_target(out, replace=replace)
        _rename(partial, out)
    except OSError as error:
        raise PlanError(
            f"{out} cannot be written: {error.strerror or error}",
            hint="name another folder with --out, or free space: an import needs about 60 bytes "
            "for each sample while it runs",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename(partial: Path, out: Path) -> None:
    """Give the folder its name. What had the name before is removed after that."""
    if not out.exists():
        partial.rename(out)
        return
    old = partial.with_suffix(".old")
    out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_target(out: Path, *, replace: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / IMPORT_FILE).is_file():
        raise PlanError(
            f"{out} exists and is no data folder", hint="name a folder that does not exist yet"
        )
    if not replace:
        raise PlanError(
            f"{out} has imported data already", hint="name another folder, or add --replace"
        )


def _read_import(path: Path) -> Import:
    file = path / IMPORT_FILE
    try:
        if file.stat().st_size > _MAX_IMPORT_BYTES:
            raise ValueError("it is too large")
        content = json.loads(file.read_text(encoding="utf-8"))
        version = content["version"]
        if version == DATA_VERSION:
            return _import_of(content)
    except FileNotFoundError as error:
        raise PlanError(
            f"{path} is no data folder: it has no {IMPORT_FILE}", hint=_IMPORT_AGAIN
        ) from (error)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PlanError(f"{file} cannot be read: {error!r}"[:300], hint=_IMPORT_AGAIN) from error
    raise PlanError(
        f"{path} has version {version!r} of the data, this harness reads {DATA_VERSION}",
        hint=_IMPORT_AGAIN,
    )


def _import_of(content: dict[str, Any]) -> Import:
    sources = tuple(
        Source(**{**one, "detected": tuple(one["detected"])}) for one in content["sources"]
    )
    findings = tuple(
        Finding(**{**one, "machines": tuple(one["machines"])}) for one in content["findings"]
    )
    numbers = {name: float(content[name]) for name in ("start", "end", "step")}
    return Import(**{**content, **numbers, "sources": sources, "findings": findings})
