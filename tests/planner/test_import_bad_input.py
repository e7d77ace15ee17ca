"""Input that cannot be used: each has a cause with the column, a hint, and leaves nothing."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import PlanError
from harness.planner.sources import delimited, prometheus_json, workbook
from tests.planner.importing import csv_trace, import_from, inventory, minutes, write, xlsx
from tests.planner.test_import_azure import VM, readings
from tests.planner.test_import_bitbrains import GWA_HEADER, opendc
from tests.planner.test_import_prometheus import answer, domain, series
from tests.planner.test_import_rvtools import V_INFO, csv_text
from tests.planner.test_import_virt_top import HEADER, row

Make = Callable[[Path], Path | tuple[Path, ...]]
MakeFile = Callable[[Path], Path]


class Bad(NamedTuple):
    """make: writes the sources into a folder. options: of the import."""

    make: Make
    cause: str
    hint: str
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed


def trace(*cells: str, header: str = "time,vm,cpu_cores") -> MakeFile:
    """A trace in which the rows have these cells behind time and name."""

    def make(folder: Path) -> Path:
        rows = [f"{time},vm,{one}" for time, one in zip(minutes(0, 5, 10), cells, strict=False)]
        return csv_trace(folder / "trace.csv", rows, header)

    return make


def times(*cells: str) -> MakeFile:
    return lambda folder: csv_trace(
        folder / "t.csv", [f"{one},vm,1" for one in cells], "time,vm,cpu_cores"
    )


def with_inventory(make: MakeFile, row: str, header: str = "vm,vcpus") -> Make:
    return lambda folder: (make(folder), csv_trace(folder / "vms.csv", [row], header))


def parquet(columns: dict[str, Any]) -> MakeFile:
    def make(folder: Path) -> Path:
        pq.write_table(pa.table(columns), folder / "trace.parquet")
        return folder / "trace.parquet"

    return make


def raw(name: str, content: bytes) -> MakeFile:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def prometheus(content: object) -> MakeFile:
    return raw("a.json", json.dumps(content).encode())


def matrix(*results: dict[str, Any]) -> MakeFile:
    return lambda folder: answer(folder / "a.json", *results)


def bombed(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "bomb.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", b"\0" * (3 << 20))
    return folder / "bomb.xlsx"


EXPORT = "export it again by /api/v1/query_range"
ISO = "write times as 2026-03-01T00:00:00Z"
BAD = {
    # columns and units
    "unknown column": Bad(
        trace("1,1", header="time,vm,cpu_cores,memry_mib"),
        "column 'memry_mib' is unknown",
        "rename it to memory_mib, or name the --format",
    ),
    "unknown unit": Bad(
        trace("1,1", header="time,vm,cpu_cores,memory_pages"),
        "column 'memory_pages' has the unknown unit 'pages'",
        "rename it to one of memory_mib, memory_bytes",
    ),
    "no unit": Bad(
        trace("1", header="time,vm,cpu"),
        "column 'cpu' has no unit",
        "rename it to one of cpu_cores, cpu_percent, cpu_mhz",
    ),
    "two columns of one quantity": Bad(
        trace("1,1", header="time,vm,cpu_cores,cpu_percent"),
        "columns 'cpu_cores' and 'cpu_percent' both hold cpu_cores",
        "remove one of them",
    ),
    "column twice": Bad(
        trace("1,1", header="time,vm,cpu_cores,cpu_cores"),
        "both hold cpu_cores",
        "remove one of them",
    ),
    "unknown format": Bad(
        raw("a.csv", b"name,size\na,1\n"),
        "is of no known format; its columns are 'name', 'size'",
        "name one with --format: planner, gwa-t-12, opendc",
    ),
    "no demand": Bad(
        lambda folder: csv_trace(folder / "t.csv", [], "time,vm"),
        "has no demand",
        "add a column cpu_cores",
    ),
    "percent without vCPUs": Bad(
        trace("10", "20", header="time,vm,cpu_percent"),
        "column 'cpu_percent' is a share of vCPUs, but no inventory has the vCPUs of vm",
        "add an inventory with the columns vm and vcpus",
    ),
    "MHz without rating": Bad(
        trace("10", "20", header="time,vm,cpu_mhz"),
        "column 'cpu_mhz' is in MHz, and the speed of a core is unknown",
        "add --rating-mhz",
    ),
    # numbers
    "text for a number": Bad(
        trace("1", "much"), "column 'cpu_cores': 'much' is no number", "correct cpu_cores"
    ),
    "two decimal signs": Bad(
        lambda folder: csv_trace(
            folder / "t.csv", ["2026-03-02T00:00:00Z;vm;1,5;2.5"], "time;vm;cpu_cores;memory_mib"
        ),
        "a decimal point in column 'memory_mib' and a comma in column 'cpu_cores'",
        "export all numbers with a decimal point",
    ),
    "thousands": Bad(
        lambda folder: csv_trace(
            folder / "t.csv", ["2026-03-02T00:00:00Z;vm;1,024"], "time;vm;memory_mib"
        ),
        "the comma in column 'memory_mib' may be a decimal sign or separate thousands",
        "without a thousands separator",
    ),
    "decimal commas between commas": Bad(
        trace("1", "1,5"), "a row has 4 cells, but the header has 3", "decimal commas need another"
    ),
    "negative": Bad(trace("1", "-1"), "cpu_cores of machine vm is -1", "between 0 and 1e9"),
    "infinite": Bad(trace("1", "inf"), "cpu_cores of machine vm is inf", "between 0 and 1e9"),
    "more CPU than vCPUs": Bad(
        with_inventory(trace("2", "5"), "vm,4"),
        "the CPU demand of machine vm is 5 cores, which is 125 % of its 4 vCPUs",
        "correct the unit of the CPU column, or vcpus in the inventory; up to 120 % is accepted",
    ),
    "memory in bytes": Bad(
        with_inventory(
            trace("1,2147483", "1,2147483", header="time,vm,cpu_cores,memory_mib"),
            "vm,4,4096",
            "vm,vcpus,memory_mib",
        ),
        "memory_mib of machine vm is 2.147e+06, and it has 4096 MiB",
        "correct the unit of the memory column",
    ),
    "vcpus of zero": Bad(
        lambda folder: inventory(folder / "v.csv", {"vm": 0}),
        "column vcpus: 0 of vm is out of range",
        "leave it empty where it is unknown",
    ),
    "no vCPUs and no samples": Bad(
        lambda folder: csv_trace(folder / "v.csv", ["vm,"], "vm,vcpus"),
        "column vcpus: machine vm has neither vCPUs nor samples",
        "add its vcpus to the inventory",
    ),
    "no boolean": Bad(
        lambda folder: csv_trace(folder / "v.csv", ["vm,1,maybe"], "vm,vcpus,powered_on"),
        "column 'powered_on': 'maybe' is no boolean",
        "write true or false",
    ),
    # times
    "no time zone": Bad(
        times("2026-03-02 00:00:00"), "column 'time' has no time zone", "add --timezone=UTC"
    ),
    "unknown time zone": Bad(
        times("2026-03-02 00:00:00"),
        "'Mars/Olympus' is no time zone",
        "use an IANA name",
        {"timezone": "Mars/Olympus"},
    ),
    "with and without offset": Bad(
        times("2026-03-02 00:00:00Z", "2026-03-02 00:05:00"),
        "times with and without an offset from UTC",
        ISO,
    ),
    "slashes": Bad(times("03/02/2026 00:00"), "column 'time': '03/02/2026 00:00' is no time", ISO),
    "bad time later": Bad(
        times(*[f"2026-03-02T00:00:{n % 60:02}Z" for n in range(300)], "later"),
        "column 'time': ",
        ISO,
    ),
    "number that is no time": Bad(times("31536000000"), "3.1536e+10 is no time in s, ms", ISO),
    "one time": Bad(
        trace("1"), "no machine has samples of two times", "name the step with --step=300"
    ),
    "parquet without zone": Bad(
        parquet({"time": pa.array([0], pa.timestamp("ms")), "vm": ["a"], "cpu_cores": [1.0]}),
        "column 'time' has no time zone",
        "add --timezone=UTC",
    ),
    "parquet with text": Bad(
        parquet(
            {"time": pa.array([0], pa.timestamp("ms", "UTC")), "vm": ["a"], "cpu_cores": ["1"]}
        ),
        "column 'cpu_cores' is of type string, not a number",
        "store it as float",
    ),
    # files
    "missing file": Bad(lambda folder: folder / "no.csv", "does not exist", "that exist"),
    "empty folder": Bad(lambda folder: folder, "has no file of a known kind", ".csv"),
    "empty file": Bad(raw("a.csv", b""), "is empty", "export it again"),
    "binary": Bad(raw("a.csv", b"\x01\0\x02" * 100), "is neither text", "name CSV, Parquet"),
    "old workbook": Bad(
        raw("a.xls", b"\xd0\xcf\x11\xe0" * 100), "a workbook of the old binary kind", "as .xlsx"
    ),
    "damaged parquet": Bad(raw("a.parquet", b"PAR1" + b"\0" * 99), "cannot be read", "export it"),
    "damaged gzip": Bad(raw("a.csv.gz", b"\x1f\x8b" + b"\0" * 99), "cannot be read", "export it"),
    "name of a machine": Bad(
        lambda folder: csv_trace(folder / "v.csv", ["a\x1b[31m,1"], "vm,vcpus"),
        "a name of a machine cannot be used",
        "1 to 256 printable characters",
    ),
    # GWA-T-12, OpenDC, Azure
    "GWA without cores": Bad(
        lambda folder: csv_trace(
            folder / "1.csv", ["1;2;3"], "Timestamp [ms];CPU usage [MHZ];CPU usage [%]"
        ),
        "column 'cpu cores' is missing",
        "use the files as the archive has them",
    ),
    "GWA with text": Bad(
        lambda folder: csv_trace(
            folder / "1.csv", [";".join(["1376314846", *["x"] * 10])], GWA_HEADER
        ),
        "column 'CPU cores': 'x' is no number",
        "correct CPU cores",
    ),
    "OpenDC without sizes": Bad(
        lambda folder: opendc(folder / "p", [("vm", 300, 300, 2, 1.0)]) / "trace.parquet",
        "column 'cpu_usage' is in MHz, and the speed of a core of machine vm is unknown",
        "name the file with the sizes of the machines, too, or add --rating-mhz",
    ),
    "OpenDC with an endless row": Bad(
        lambda folder: opendc(
            folder / "p", [("vm", 300, 300, 2, 1.0), ("vm", 900, 10**12, 2, 1.0)]
        ),
        "column 'duration': 1000000000000000 ms is too long",
        "export shorter intervals",
    ),
    "Azure without a table": Bad(
        lambda folder: readings(folder / "a.csv", [(0, VM, 1, 2, 3), (300, VM, 1, 2, 3)]),
        "column 'timestamp' holds seconds since an unknown start, up to 300",
        "add --date",
    ),
    # virt-top
    "virt-top without date": Bad(
        lambda folder: csv_trace(folder / "a.csv", [row("10:00:00")], HEADER),
        "column 'Time' has neither a date nor a time zone",
        "add --date with the day of the first row, and --timezone",
    ),
    # RVTools
    "RVTools without vInfo": Bad(
        lambda folder: write(
            folder / "RVTools_tabvHost.csv", csv_text([["Host", "# Cores"], ["a", 4]])
        ),
        "has no tab vInfo",
        "export all tabs",
    ),
    "RVTools without CPUs": Bad(
        lambda folder: write(
            folder / "RVTools_tabvInfo.csv", csv_text([[*V_INFO[0][:3]], [*V_INFO[1][:3]]])
        ),
        "tab vinfo has no column 'cpus'",
        "export all columns",
    ),
    "zip": Bad(
        lambda folder: xlsx(folder / "a.xlsx", {"Sheet1": [["a", "b"]]}),
        "has no tab vInfo",
        "export all tabs",
    ),
    "bomb": Bad(bombed, "unpacks to more than 1 MiB", "export the tabs as CSV"),
    # Prometheus
    "no JSON": Bad(raw("a.json", b'{"resultType": '), "is no JSON", EXPORT),
    "deep JSON": Bad(raw("a.json", b'{"resultType":' + b"[" * 100_000), "is no JSON", EXPORT),
    "JSON of another tool": Bad(raw("a.json", b"{}"), "is of no known format", "--format"),
    "error of Prometheus": Bad(
        prometheus({"status": "error", "error": "parse error", "resultType": ""}),
        "is an error of Prometheus: parse error",
        "correct the query",
    ),
    "one moment": Bad(
        prometheus({"data": {"resultType": "vector", "result": []}}),
        "is a vector of one moment, not a range",
        EXPORT,
    ),
    "result of rate()": Bad(
        prometheus({"data": {"resultType": "matrix", "result": [{"metric": {"a": "b"}}]}}),
        "has a series without a name, as results of rate() or sum() are",
        "export the counters and gauges themselves",
    ),
    "unknown metric": Bad(
        matrix(series("libvirt_up", [1])), "has no known metric; it has libvirt_up", "libvirt_exp"
    ),
    "no domain": Bad(
        matrix(series("libvirt_domain_info_virtual_cpus", [1])),
        "metric libvirt_domain_info_virtual_cpus has no label 'domain'",
        "keep the label domain in the query",
    ),
    "no number": Bad(
        matrix(domain("info_virtual_cpus", ["many"])), "has a value that is no number", EXPORT
    ),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=list(BAD))
def test_bad_input_has_cause_and_hint(
    bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbook, "_MAX_BYTES", 1 << 20)
    (tmp_path / "in").mkdir()
    made = bad.make(tmp_path / "in")
    with pytest.raises(PlanError) as info:
        import_from(
            tmp_path / "out" / "data",
            *(made if isinstance(made, tuple) else (made,)),
            **bad.options,
        )
    assert bad.cause in info.value.cause
    assert bad.hint in info.value.hint
    assert "\x1b" not in str(info.value)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_causes_name_the_file(tmp_path: Path) -> None:
    file = trace("1", "much")(tmp_path)
    with pytest.raises(PlanError, match=re.escape(str(file))):
        import_from(tmp_path / "data", file)


def test_long_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "_MAX_LINE", 1000)
    file = csv_trace(tmp_path / "v.csv", ["a,1", f"{'b' * 2000},1"], "vm,vcpus")
    with pytest.raises(PlanError, match="has a line of more than"):
        import_from(tmp_path / "data", file)


def test_large_answer_of_prometheus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus_json, "_MAX_BYTES", 1 << 20)
    file = answer(tmp_path / "a.json", domain("info_virtual_cpus", [4] * 100_000))
    with pytest.raises(PlanError, match="has more than 1 MiB"):
        import_from(tmp_path / "data", file)
