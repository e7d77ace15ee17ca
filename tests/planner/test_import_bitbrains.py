"""GWA-T-12 and the Parquet pair of OpenDC: small ones, and bitbrains-small as it was published."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.planner.data_folder import DataFolder
from tests.planner.importing import (
    counts,
    csv_trace,
    detected,
    finding_machines,
    import_from,
    machines,
    trace,
    values,
)

SHARED = Path(__file__).parents[3] / "shared" / "data"
START = datetime(2013, 8, 12, 13, 35, 46, tzinfo=UTC)
GWA_HEADER = ";\t".join(
    [
        "Timestamp [ms]",
        "CPU cores",
        "CPU capacity provisioned [MHZ]",
        "CPU usage [MHZ]",
        "CPU usage [%]",
        "Memory capacity provisioned [KB]",
        "Memory usage [KB]",
        "Disk read throughput [KB/s]",
        "Disk write throughput [KB/s]",
        "Network received throughput [KB/s]",
        "Network transmitted throughput [KB/s]",
    ]
)
SECONDS = 1376314800  # a multiple of 300


def gwa(path: Path, cells: list[tuple[int, int, float]], cores: int = 4) -> Path:
    """A file of GWA-T-12. cells: seconds since the start, cores, MHz."""
    rows = [
        f"{SECONDS + at};\t{count};\t{count * 2600.0};\t{mhz};\t1.0;\t6.7108864E7;\t6291456.0;"
        "\t0.13;\t15981.6;\t512.0;\t1536.0"
        for at, count, mhz in cells
    ]
    path.parent.mkdir(exist_ok=True)
    return csv_trace(path, rows, GWA_HEADER)


def test_gwa_t_12(tmp_path: Path) -> None:
    gwa(tmp_path / "fastStorage" / "1.csv", [(300, 4, 5200), (600, 4, 1300), (900, 0, 0)])
    gwa(tmp_path / "fastStorage" / "2.csv", [(300, 2, 2600), (600, 2, 0)])
    data = import_from(tmp_path / "data", tmp_path / "fastStorage")
    assert values(data, "cpu_cores", "1") == {"12 13:40": 2, "12 13:45": 0.5, "12 13:50": 0}
    frame = trace(data)
    assert frame["memory_mib"].unique().tolist() == [6144]
    assert frame["net_mib_s"].unique().tolist() == [2]
    assert frame["read_iops"].isna().all()
    assert machines(data)["1"]["vcpus"] == 4
    assert machines(data)["2"]["memory_mib"] == 65536
    notes = detected(data)
    assert "Timestamp [ms] holds s since 1970, though its name says ms." in notes
    assert "Throughput of disks is not used" in notes
    assert finding_machines(data, "no-vcpus") == ("1",)
    (source,) = data.description.sources
    assert (source.format, source.rows) == ("gwa-t-12", 5)


def test_gwa_t_12_months_of_one_machine_and_machines_of_two_sources(tmp_path: Path) -> None:
    for month, start in (("7", 0), ("8", 600)):
        (tmp_path / "rnd" / month).mkdir(parents=True)
        gwa(tmp_path / "rnd" / month / "1.csv", [(start + 300, 4, 1), (start + 600, 4, 1)])
    data = import_from(tmp_path / "one", tmp_path / "rnd")
    assert list(machines(data)) == ["1"]
    assert len(trace(data)) == 4
    gwa(tmp_path / "fast" / "1.csv", [(300, 4, 1), (600, 4, 1)])
    data = import_from(tmp_path / "two", tmp_path / "rnd", tmp_path / "fast")
    assert len(machines(data)) == 2
    assert all(name.endswith("/1") for name in machines(data))


def test_inventory_counts_more_than_what_the_samples_say(tmp_path: Path) -> None:
    file = gwa(tmp_path / "a" / "1.csv", [(300, 4, 5200), (600, 4, 1300)])
    vms = csv_trace(tmp_path / "vms.csv", ["1,8"], "vm,vcpus")
    found = machines(import_from(tmp_path / "data", vms, file))["1"]
    assert (found["vcpus"], found["memory_mib"]) == (8, 65536)


def opendc(path: Path, rows: list[tuple[str, int, int, int, float]], kib: float = 1024) -> Path:
    """A pair of OpenDC. rows: id, end and duration in s, cpu_count, MHz."""
    path.mkdir()
    table = pa.table(
        {
            "id": [row[0] for row in rows],
            "timestamp": pa.array(
                [START + timedelta(seconds=row[1]) for row in rows], pa.timestamp("ms", "UTC")
            ),
            "duration": [row[2] * 1000 for row in rows],
            "cpu_count": pa.array([row[3] for row in rows], pa.int32()),
            "cpu_usage": [row[4] for row in rows],
        }
    )
    pq.write_table(table, path / "trace.parquet")
    ids = sorted({row[0] for row in rows})
    meta = pa.table(
        {
            "id": ids,
            "start_time": pa.array([START] * len(ids), pa.timestamp("ms", "UTC")),
            "stop_time": pa.array([START] * len(ids), pa.timestamp("ms", "UTC")),
            "cpu_count": pa.array([2] * len(ids), pa.int32()),
            "cpu_capacity": [5200.0] * len(ids),
            "mem_capacity": pa.array([int(2048 * kib)] * len(ids), pa.int64()),
        }
    )
    pq.write_table(meta, path / "meta.parquet")
    return path


def test_opendc_separates_joined_rows_and_keeps_gaps(tmp_path: Path) -> None:
    rows = [
        ("vm", 300, 300, 2, 2600.0),
        ("vm", 1500, 1200, 2, 1300.0),  # four samples of equal demand
        ("vm", 1801, 300, 2, 5200.0),  # the clock drifts by a second
        ("vm", 5401, 300, 2, 2600.0),  # after a gap of 55 minutes
        ("vm", 6301, 300, 2, 0.0),  # after a gap of 10 minutes
        ("vm", 6601, 300, 0, 0.0),  # off
    ]
    data = import_from(tmp_path / "data", opendc(tmp_path / "pair", rows))
    assert list(values(data, "cpu_cores").values()) == [1, 0.5, 0.5, 0.5, 0.5, 2, 1, 1, 1, 0, 0]
    assert list(values(data, "cpu_cores"))[5:7] == ["12 14:00", "12 15:00"]
    assert machines(data)["vm"]["memory_mib"] == 2048
    found = counts(data)
    assert (found["gap"], found["carried"], found["no-vcpus"]) == (1, 2, 1)
    assert finding_machines(data, "gap") == ("vm",)
    assert "1 rows join samples of equal demand" in detected(data)
    assert "mem_capacity is in KiB." in detected(data)


def test_opendc_memory_in_mib(tmp_path: Path) -> None:
    rows = [("vm", 300, 300, 2, 1.0), ("vm", 600, 300, 2, 1.0)]
    data = import_from(tmp_path / "data", opendc(tmp_path / "pair", rows, kib=1))
    assert machines(data)["vm"]["memory_mib"] == 2048


def test_opendc_trace_alone_needs_the_speed_of_a_core(tmp_path: Path) -> None:
    pair = opendc(tmp_path / "pair", [("vm", 300, 300, 2, 520.0), ("vm", 600, 300, 2, 260.0)])
    data = import_from(tmp_path / "data", pair / "trace.parquet", rating_mhz=2600)
    assert trace(data)["cpu_cores"].tolist() == pytest.approx([0.2, 0.1])


@pytest.mark.skipif(not SHARED.exists(), reason="shared/data has no bitbrains-small")
class TestBitbrainsSmall:
    """The data set has a mean utilization of 9.1 % over time; the median machine has 1.4 %."""

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
        files = (SHARED / f"bitbrains-small-{part}.parquet" for part in ("trace", "meta"))
        return import_from(tmp_path_factory.mktemp("bitbrains") / "data", *files)

    def test_published_means(self, data: DataFolder) -> None:
        frame = trace(data)
        vcpus = frame["vm"].map({vm: row["vcpus"] for vm, row in machines(data).items()})
        utilization = frame["cpu_cores"] / vcpus
        assert round(100 * utilization.mean(), 1) == 9.1
        assert round(100 * utilization.groupby(frame["vm"]).mean().median(), 1) == 1.4

    def test_step_and_machines(self, data: DataFolder) -> None:
        description = data.description
        assert description.step == 300
        assert (description.machines, description.with_trace) == (50, 50)
        assert sum(source.rows for source in description.sources) == 276_979 + 50

    def test_gaps_stay_gaps(self, data: DataFolder) -> None:
        """Where a row begins more than 15 minutes after the row before, there is no sample."""
        source = pq.read_table(SHARED / "bitbrains-small-trace.parquet").to_pandas()
        begin = source["timestamp"] - source["duration"].astype("timedelta64[ms]")
        before = source.groupby("id")["timestamp"].shift()
        long = (begin - before).dt.total_seconds() > 15 * 60
        assert 0 < long.sum() == counts(data)["gap"]
        frame = trace(data)
        for index in np.flatnonzero(long):
            middle = before[index] + (begin[index] - before[index]) / 2
            here = frame[frame["vm"] == source["id"][index]]["time"]
            assert (abs(here - middle).dt.total_seconds() > 300).all()

    def test_samples_above_the_vcpus_are_kept(self, data: DataFolder) -> None:
        frame = trace(data)
        vcpus = frame["vm"].map({vm: row["vcpus"] for vm, row in machines(data).items()})
        above = frame["cpu_cores"] > vcpus
        assert counts(data)["above-vcpus"] == pytest.approx(above.sum(), rel=0.01)
        assert 1.05 < (frame["cpu_cores"] / vcpus).max() < 1.07
