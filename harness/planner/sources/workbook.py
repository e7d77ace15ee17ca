"""Sheets of xlsx workbooks, bounded in size. It needs the extra `xlsx`."""

# ruff: noqa: PLC0415 - an optional dependency
from __future__ import annotations

import zipfile
from typing import Any

from harness.planner.sources.source_file import SourceFile

_MAX_BYTES = 512 << 20  # of all parts, unpacked
_MAX_PARTS = 10_000
_CHUNK = 1 << 20


def open_workbook(file: SourceFile) -> Any:
    """A workbook of python-calamine. Raises PlanError when it is damaged or too large."""
    try:
        from python_calamine import CalamineError, CalamineWorkbook
    except ImportError as error:
        raise file.error(
            "is a workbook, and python-calamine is not installed",
            "install pytest-hypervisor[xlsx], or export the tabs as CSV",
        ) from error
    _check_size(file)
    try:
        return CalamineWorkbook.from_path(str(file.path))
    except (CalamineError, OSError, ValueError) as error:
        raise file.error(f"is no workbook: {error}", "export it again, or as CSV") from error


def sheet_rows(file: SourceFile, workbook: Any, name: str) -> list[list[Any]]:
    """The cells of a sheet. Raises PlanError when it is damaged."""
    from python_calamine import CalamineError

    try:
        rows: list[list[Any]] = workbook.get_sheet_by_name(name).to_python()
    except (CalamineError, ValueError) as error:
        raise file.error(f"has a damaged sheet {name}: {error}", "export it again") from error
    return rows


def _check_size(file: SourceFile) -> None:
    """Unpack all parts without keeping them, since a header may lie about a part's size."""
    size = 0
    try:
        with zipfile.ZipFile(file.path) as archive:
            if len(archive.infolist()) > _MAX_PARTS:
                raise file.error(f"has more than {_MAX_PARTS} parts", "export it again")
            for part in archive.infolist():
                with archive.open(part) as stream:
                    while chunk := stream.read(_CHUNK):
                        size += len(chunk)
                        if size > _MAX_BYTES:
                            raise file.error(
                                f"unpacks to more than {_MAX_BYTES >> 20} MiB",
                                "export the tabs as CSV",
                            )
    except (OSError, EOFError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        # RuntimeError: it is encrypted. NotImplementedError: an unknown compression.
        raise file.error(
            f"is no readable workbook: {error}", "export it again, or as CSV"
        ) from error
