"""The planner's own schema as CSV and Parquet: units, times, and how text is written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.planner.trace import HOSTS, MACHINES, TRACE
from tests.planner.importing import (
    counts,
    csv_trace,
    detected,
    finding_machines,
    import_from,
    inventory,
    machines,
    minutes,
    trace,
    values,
    write,
)


def test_csv_becomes_data_folder(tmp_path: Path) -> None:
    times = minutes(0, 5, 10)
    rows = [
        f"{time},{vm},{cpu},2048"
        for vm in ("a", "b")
        for time, cpu in zip(times, (1, 2, 3), strict=True)
    ]
    data = import_from(
        tmp_path / "data",
        csv_trace(tmp_path / "trace.csv", rows),
        inventory(tmp_path / "vms.csv", {"a": 4, "b": 8, "c": 2}),
    )
    description = data.description
    assert (description.samples, description.machines, description.with_trace) == (6, 3, 2)
    assert description.step == 300
    assert description.end - description.start == 900
    assert values(data, "cpu_cores", "a") == {"02 00:00": 1, "02 00:05": 2, "02 00:10": 3}
    assert values(data, "memory_mib", "b")["02 00:10"] == 2048
    assert trace(data)["read_iops"].isna().all()
    assert finding_machines(data, "without-trace") == ("c",)
    assert counts(data)["short-trace"] == 2


def test_files_have_the_schemas(tmp_path: Path) -> None:
    rows = [f"{time},vm,1,1" for time in minutes(0, 5)]
    hosts = csv_trace(tmp_path / "hosts.csv", ["h1,32,64"], "host,cores,threads")
    data = import_from(tmp_path / "data", csv_trace(tmp_path / "trace.csv", rows), hosts)
    (file,) = data.trace_files()
    assert pq.read_schema(file).equals(TRACE)
    assert data.machines().schema.equals(MACHINES)
    found = data.hosts()
    assert found is not None
    assert found.schema.equals(HOSTS)
    assert found.to_pylist()[0]["threads"] == 64


def test_machine_is_in_one_file_sorted_by_time(tmp_path: Path) -> None:
    names = [f"vm{number}" for number in range(300)]
    rows = [f"{time},{name},1,1" for time in minutes(10, 0, 5) for name in names]
    data = import_from(tmp_path / "data", csv_trace(tmp_path / "trace.csv", rows))
    seen: set[str] = set()
    for file in data.trace_files():
        frame = pq.read_table(file).to_pandas()
        here = set(frame["vm"].astype(str))
        assert not here & seen
        seen |= here
        for _, part in frame.groupby("vm", observed=True):
            assert part["time"].is_monotonic_increasing
            assert len(part) == 3
    assert seen == set(names)
    assert len(data.trace_files()) > 32


def test_parquet_equals_csv(tmp_path: Path) -> None:
    start = datetime(2026, 3, 2, tzinfo=UTC)
    table = pa.table(
        {
            "time": pa.array(
                [start + timedelta(minutes=5 * n) for n in range(4)], pa.timestamp("us", "UTC")
            ),
            "vm": pa.array(["vm"] * 4).dictionary_encode(),
            "cpu_cores": pa.array([0.5, None, 1.5, 2.0], pa.float32()),
        }
    )
    pq.write_table(table, tmp_path / "trace.parquet")
    rows = [
        f"{time},vm,{cpu}"
        for time, cpu in zip(minutes(0, 5, 10, 15), ("0.5", "", "1.5", "2.0"), strict=True)
    ]
    text = csv_trace(tmp_path / "trace.csv", rows, "time,vm,cpu_cores")
    one = import_from(tmp_path / "one", tmp_path / "trace.parquet")
    other = import_from(tmp_path / "other", text)
    assert trace(one).equals(trace(other))
    assert values(one, "cpu_cores") == {
        "02 00:00": 0.5,
        "02 00:05": 0.5,  # carried
        "02 00:10": 1.5,
        "02 00:15": 2.0,
    }
    assert counts(one)["carried"] == 1


@pytest.mark.parametrize(
    ("header", "cell", "column", "value"),
    [
        ("memory_gib", "2", "memory_mib", 2048),
        ("Memory [bytes]", "1048576", "memory_mib", 1),
        ("memory_kb", "1048.576", "memory_mib", 1),
        ("net_mbit_s", "8.388608", "net_mib_s", 1),
        ("net_kib_s", "512", "net_mib_s", 0.5),
        ("CPU [%]", "25", "cpu_cores", 1),
        ("cpu_mhz", "5200", "cpu_cores", 2),
        ("cpu_percent_max", "50", "cpu_cores_max", 2),
    ],
)
def test_units_in_names(tmp_path: Path, header: str, cell: str, column: str, value: float) -> None:
    rows = [f"{time},vm,{cell}" for time in minutes(0, 5)]
    data = import_from(
        tmp_path / "data",
        csv_trace(tmp_path / "trace.csv", rows, f"time,vm,{header}"),
        inventory(tmp_path / "vms.csv", {"vm": 4}),
        rating_mhz=2600,
    )
    assert trace(data)[column].tolist() == pytest.approx([value] * 2)
    assert header in detected(data)


def test_seconds_under_a_name_that_says_ms(tmp_path: Path) -> None:
    rows = [f"{1772409600 + 300 * n},vm,1" for n in range(2)]
    file = csv_trace(tmp_path / "trace.csv", rows, "Time [ms],vm,cpu_cores")
    data = import_from(tmp_path / "data", file)
    assert list(values(data, "cpu_cores")) == ["02 00:00", "02 00:05"]
    assert "Time [ms] holds s since 1970, though its name says ms." in detected(data)


@pytest.mark.parametrize(
    ("times", "note"),
    [
        (["1772409600", "1772409900"], "holds s since 1970."),
        (["1772409600000", "1772409900000"], "holds ms since 1970."),
        (["2026-03-02T00:00:00+00:00", "2026-03-02T02:05:00+02:00"], "offset from UTC"),
        (["2026-03-02 00:00", "2026-03-02 00:05"], "local times of UTC"),
        (["02.03.2026 00:00", "02.03.2026 00:05:00"], "local times of UTC"),
    ],
)
def test_times(tmp_path: Path, times: list[str], note: str) -> None:
    rows = [f"{time},vm,1" for time in times]
    file = csv_trace(tmp_path / "trace.csv", rows, "time,vm,cpu_cores")
    data = import_from(tmp_path / "data", file, timezone="UTC")
    assert list(values(data, "cpu_cores")) == ["02 00:00", "02 00:05"]
    assert note in detected(data)


def test_local_times_across_clock_changes(tmp_path: Path) -> None:
    # 2026-10-25: at 3:00 summer time the clocks of Berlin go back to 2:00
    spring = [f"2026-03-29 {clock}" for clock in ("01:30", "01:45", "03:00", "03:15")]
    autumn = [f"2026-10-25 {clock}" for clock in ("01:30", "01:45", "02:00", "02:45", "03:00")]
    rows = [f"{time},vm,1" for time in spring + autumn]
    file = csv_trace(tmp_path / "trace.csv", rows, "time,vm,cpu_cores")
    data = import_from(tmp_path / "data", file, timezone="Europe/Berlin", step=900)
    assert list(values(data, "cpu_cores")) == [
        *("29 00:30", "29 00:45", "29 01:00", "29 01:15"),
        *("24 23:30", "24 23:45", "25 02:00"),
    ]
    found = {one.code: one for one in data.description.findings}
    assert found["clock-change"].count == 2
    assert "Europe/Berlin" in found["clock-change"].sentence
    assert found["gap"].count == 2  # the summer, and the uncertain hours


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    text = "\n".join(["time,vm,cpu_cores", *(f"{time},vm-ä,1" for time in minutes(0, 5))])
    data = import_from(tmp_path / "data", write(tmp_path / "trace.csv", text, encoding))
    assert list(machines(data)) == ["vm-ä"]
    assert "byte order mark" in detected(data)


def test_decimal_commas(tmp_path: Path) -> None:
    rows = [f"{time};vm;1,5" for time in minutes(0, 5)]
    file = csv_trace(tmp_path / "trace.csv", rows, "time;vm;cpu_cores")
    data = import_from(tmp_path / "data", file)
    assert trace(data)["cpu_cores"].tolist() == [1.5, 1.5]
    assert "decimal commas" in detected(data)


def test_rows_that_are_one_quoted_field(tmp_path: Path) -> None:
    rows = [f'"{time},""vm, 1"",0.5"' for time in minutes(0, 5)]
    file = csv_trace(tmp_path / "trace.csv", rows, '"time,vm,cpu_cores"')
    data = import_from(tmp_path / "data", file)
    assert list(machines(data)) == ["vm, 1"]
    assert trace(data)["cpu_cores"].tolist() == [0.5, 0.5]
    assert "one quoted field" in detected(data)


def test_quoted_fields_and_a_line_for_excel(tmp_path: Path) -> None:
    rows = [f'"{time}";"vm;1";"0.5"' for time in minutes(0, 5)]
    file = write(tmp_path / "t.csv", "sep=;\r\n" + "\r\n".join(['"time";"vm";"cpu_cores"', *rows]))
    data = import_from(tmp_path / "data", file)
    assert list(machines(data)) == ["vm;1"]


def test_gzip(tmp_path: Path) -> None:
    import gzip

    text = "\n".join(["time,vm,cpu_cores", *(f"{time},vm,1" for time in minutes(0, 5))])
    (tmp_path / "trace.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert len(trace(import_from(tmp_path / "data", tmp_path / "trace.csv.gz"))) == 2


def test_inventory_columns(tmp_path: Path) -> None:
    header = (
        "vm,vcpus,memory_gib,disk_tib,host,cluster,apart,together,license,pin,powered_on,template"
    )
    rows = ["a,4,8,1,h1,c1,db,web,oracle,h1,true,false", "b,2,,,,,,,,,off,no", "c,2,,,,,,,,,,yes"]
    data = import_from(tmp_path / "data", csv_trace(tmp_path / "vms.csv", rows, header))
    found = machines(data)
    assert found["a"] == {
        "vm": "a",
        "vcpus": 4,
        "memory_mib": 8192,
        "disk_gib": 1024,
        "host": "h1",
        "cluster": "c1",
        "apart": "db",
        "together": "web",
        "licence": "oracle",
        "pin": "h1",
        "powered_on": True,
        "template": False,
    }
    assert found["b"]["memory_mib"] is None
    assert (found["b"]["powered_on"], found["c"]["template"]) == (False, True)
    assert counts(data) == {"without-trace": 1, "powered-off": 1, "template": 1}
    assert data.description.samples == 0


def test_machine_in_no_inventory_gets_vcpus(tmp_path: Path) -> None:
    rows = [f"{time},vm,{cpu},1" for time, cpu in zip(minutes(0, 5), (0.2, 3.4), strict=True)]
    data = import_from(tmp_path / "data", csv_trace(tmp_path / "trace.csv", rows))
    assert machines(data)["vm"]["vcpus"] == 4
    assert finding_machines(data, "without-inventory") == ("vm",)


def test_last_inventory_counts(tmp_path: Path) -> None:
    first = csv_trace(tmp_path / "1.csv", ["vm,4,h1"], "vm,vcpus,host")
    second = csv_trace(tmp_path / "2.csv", ["vm,8,"], "vm,vcpus,host")
    data = import_from(tmp_path / "data", first, second)
    assert machines(data)["vm"]["vcpus"] == 8
    assert machines(data)["vm"]["host"] == "h1"
    assert finding_machines(data, "inventory-conflict") == ("vm",)


def test_highest_demand_counts_for_vcpus(tmp_path: Path) -> None:
    rows = [f"{time},vm,1,{highest}" for time, highest in zip(minutes(0, 5), (1, 6), strict=True)]
    file = csv_trace(tmp_path / "trace.csv", rows, "time,vm,cpu_cores,cpu_cores_max")
    assert machines(import_from(tmp_path / "data", file))["vm"]["vcpus"] == 6


def test_columns_that_are_not_needed_may_repeat(tmp_path: Path) -> None:
    """Only Azure's tables may have more columns than are used."""
    rows = [f"{time},v1,1,2,50" for time in minutes(0, 5)]
    file = csv_trace(tmp_path / "cpu.csv", rows, "timestamp,vmid,x,x,avg cpu")
    table = csv_trace(tmp_path / "vms.csv", ["v1,2,8"], "vmid,cores,memory gb")
    assert trace(import_from(tmp_path / "data", file, table))["cpu_cores"].tolist() == [1, 1]
