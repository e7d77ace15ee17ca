"""Helpers of the tests of `plan import`: write sources, import them, look at the result."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pandas as pd
import pyarrow.parquet as pq

from harness.planner.data_folder import DataFolder
from harness.planner.importer import import_data
from harness.planner.sources.base import ImportOptions

START = "2026-03-02"  # a Monday


def import_from(out: Path, *sources: Path, **options: Any) -> DataFolder:
    """Import sources with options of ImportOptions into `out`."""
    import_data([str(one) for one in sources], out, ImportOptions(**options))
    return DataFolder(out)


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def csv_trace(
    path: Path, rows: Sequence[str], header: str = "time,vm,cpu_cores,memory_mib"
) -> Path:
    return write(path, "\n".join([header, *rows]) + "\n")


def inventory(path: Path, vcpus: Mapping[str, float]) -> Path:
    return csv_trace(path, [f"{vm},{count}" for vm, count in vcpus.items()], "vm,vcpus")


def minutes(*numbers: float, day: str = START) -> list[str]:
    """Times in UTC, so many minutes after midnight of a day."""
    start = pd.Timestamp(day, tz="UTC")
    return [f"{start + pd.Timedelta(minutes=one):%Y-%m-%dT%H:%M:%SZ}" for one in numbers]


def trace(data: DataFolder) -> pd.DataFrame:
    """All samples, sorted by machine and time."""
    frames = [pq.read_table(path).to_pandas() for path in data.trace_files()]
    frame: pd.DataFrame = pd.concat([one.astype({"vm": str}) for one in frames])
    return frame.sort_values(["vm", "time"], ignore_index=True)


def values(data: DataFolder, column: str, vm: str | None = None) -> dict[str, float]:
    """A column by time, as `02 00:05`, of one machine or the only one."""
    frame = trace(data)
    if vm is not None:
        frame = frame[frame["vm"] == vm]
    assert frame["vm"].nunique() == 1
    return dict(zip(frame["time"].dt.strftime("%d %H:%M"), frame[column].tolist(), strict=True))


def machines(data: DataFolder) -> dict[str, dict[str, Any]]:
    return {row["vm"]: row for row in data.machines().to_pylist()}


def counts(data: DataFolder) -> dict[str, int]:
    """The counts of the findings, by code."""
    return {one.code: one.count for one in data.description.findings}


def finding_machines(data: DataFolder, code: str) -> tuple[str, ...]:
    (found,) = (one for one in data.description.findings if one.code == code)
    return found.machines


def detected(data: DataFolder) -> str:
    return "\n".join(line for source in data.description.sources for line in source.detected)


def xlsx(path: Path, sheets: Mapping[str, Sequence[Sequence[object]]]) -> Path:
    """A workbook with inline texts, numbers and booleans."""
    names = list(sheets)
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    package = "http://schemas.openxmlformats.org/package/2006"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types">'
        '<Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/vnd.openxmlformats-officedocument.'
        'spreadsheetml.sheet.main+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r" '
        f'Type="{relations}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{relations}"><sheets>'
        + "".join(
            f'<sheet name={quoteattr(name)} sheetId="{n}" r:id="r{n}"/>'
            for n, name in enumerate(names, 1)
        )
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships">'
        + "".join(
            f'<Relationship Id="r{n}" Type="{relations}/worksheet" '
            f'Target="worksheets/sheet{n}.xml"/>'
            for n in range(1, len(names) + 1)
        )
        + "</Relationships>",
    }
    for number, name in enumerate(names, 1):
        rows = "".join(f"<row>{''.join(map(_cell, row))}</row>" for row in sheets[name])
        parts[f"xl/worksheets/sheet{number}.xml"] = (
            f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData></worksheet>'
        )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, text in parts.items():
            archive.writestr(part, f'<?xml version="1.0" encoding="UTF-8"?>{text}')
    return path


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return f'<c t="b"><v>{int(value)}</v></c>'
    if isinstance(value, int | float):
        return f"<c><v>{value}</v></c>"
    return f'<c t="inlineStr"><is><t>{escape(str(value))}</t></is></c>'
