"""The files that a user names: found, checked, and looked at by their heads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import PlanError
from harness.planner.sources.dialect import Dialect, sniff
from harness.planner.sources.printable import printable

MAX_FILES = 200_000
HEAD_BYTES = 1 << 18
# Files of a folder with other endings, such as a README, are not read.
SUFFIXES = (".csv", ".csv.gz", ".parquet", ".json", ".json.gz", ".xlsx")
_OLE = b"\xd0\xcf\x11\xe0"  # the format of .xls before 2007

Kind = Literal["parquet", "xlsx", "json", "text"]


@dataclass(frozen=True)
class SourceFile:
    """One file. argument: what the user named, the file or a folder. head: its first bytes."""

    argument: str
    path: Path
    head: bytes

    @cached_property
    def kind(self) -> Kind:
        if self.head.startswith(b"PAR1"):
            return "parquet"
        if self.head.startswith(b"PK\x03\x04"):
            return "xlsx"
        if self.head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
            return "json"
        return "text"

    @cached_property
    def dialect(self) -> Dialect:
        """How its text is written. Raises PlanError for a file that is not delimited text."""
        return sniff(self.head, str(self.path), complete=len(self.head) < HEAD_BYTES)

    @cached_property
    def parquet_schema(self) -> pa.Schema:
        with readable(self.path):
            return pq.read_schema(self.path)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, of Parquet and delimited text; otherwise none."""
        if self.kind == "parquet":
            return tuple(self.parquet_schema.names)
        return self.dialect.header if self.kind == "text" else ()

    def error(self, cause: str, hint: str) -> PlanError:
        """An error about this file. Both texts may contain text from the file."""
        return PlanError(f"{self.path}: {printable(cause)}", hint=printable(hint))


def find_files(sources: Sequence[str]) -> list[SourceFile]:
    """The files of all sources, in the order of the sources and of their names.

    Of a folder, the files in all its folders whose names end as in SUFFIXES. Raises PlanError.
    """
    files: list[SourceFile] = []
    seen: set[Path] = set()
    for source in sources:
        found = _paths_of(source)
        for path in found:
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            if len(seen) > MAX_FILES:
                raise PlanError(
                    f"the sources have more than {MAX_FILES} files", hint="join files, or name less"
                )
            files.append(_open(source, path))
    return files


def _paths_of(source: str) -> list[Path]:
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        reason = "is no regular file" if path.exists() else "does not exist"
        raise PlanError(f"{source} {reason}", hint="name files or folders that exist")
    found = sorted(
        one
        for one in path.rglob("*")
        if one.name.lower().endswith(SUFFIXES)
        and not any(part.startswith(".") for part in one.relative_to(path).parts)
        and one.is_file()
    )
    if not found:
        raise PlanError(
            f"{source} has no file of a known kind",
            hint=f"name a folder with files that end with {', '.join(SUFFIXES)}",
        )
    return found


def _open(source: str, path: Path) -> SourceFile:
    with readable(path), pa.input_stream(str(path), compression="detect") as stream:
        head = stream.read(HEAD_BYTES)
    if not head:
        raise PlanError(f"{path} is empty", hint="export it again, or leave it out")
    if head.startswith(_OLE):
        raise PlanError(
            f"{path} is a workbook of the old binary kind", hint="save it as .xlsx, or as CSV"
        )
    return SourceFile(source, path, head)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of the file system and of damaged files into PlanError."""
    try:
        yield
    except PermissionError as error:
        raise PlanError(
            f"{path} cannot be read: {os.strerror(error.errno or 0)}",
            hint="give yourself the right to read it",
        ) from error
    except (OSError, EOFError, pa.ArrowException) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise PlanError(
            f"{path} cannot be read: {printable(reason)}", hint="export it again, or leave it out"
        ) from error
