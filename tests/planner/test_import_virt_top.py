"""virt-top --csv: repeated columns, times without a date, and units that the header calls wrong."""

from __future__ import annotations

from datetime import date
from pathlib import Path

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

HEADER = (
    "Hostname,Time,Arch,Physical CPUs,Count,Running,Blocked,Paused,Shutdown,Shutoff,Crashed,"
    "Active,Inactive,%CPU,Total hardware memory (KB),Total memory (KB),Total guest memory (KB),"
    "Total CPU time (ns),Domain ID,Domain name,CPU (ns),%CPU,Mem (bytes),%Mem,Block RDRQ,"
    "Block WRRQ,Net RXBY,Net TXBY"
)
# as virt-top 1.0.9 wrote it, with steps of 300 s
FIRST = "Sirius,{},x86_64,16,2,2,0,0,0,0,0,2,1,0.0,32817036,22020096,11534336,0"
OFF = ",1,Polaris,0.,0.,0,0,,,,,2,Mimosa,0.,0.,0,0,,,,"
ON = (
    ",1,Polaris,{cpu},{share},3145728,9,300,600,157286400,157286400"
    ",2,Mimosa,0.,0.,8388608,25,0,0,0,0"
)


def row(time: str, share: float | None = 12.5) -> str:
    """One moment of two domains. share: of the host's CPUs in percent; None: the first moment."""
    domains = OFF if share is None else ON.format(cpu=f"{share * 48e9}", share=share)
    return FIRST.format(time) + domains


def run(tmp_path: Path, *rows: str, day: date = date(2026, 3, 2), zone: str = "UTC") -> DataFolder:
    file = csv_trace(tmp_path / "top.csv", list(rows), HEADER)
    return import_from(tmp_path / "data", file, date=day, timezone=zone)


def test_domains_become_machines(tmp_path: Path) -> None:
    data = run(tmp_path, row("10:00:00", None), row("10:05:00"), row("10:10:00", 25))
    assert values(data, "cpu_cores", "Polaris") == {"02 10:00": 2, "02 10:05": 4}
    frame = trace(data).set_index("vm").loc["Polaris"]
    assert frame["read_iops"].tolist() == [1, 1]
    assert frame["write_iops"].tolist() == [2, 2]
    assert frame["net_mib_s"].tolist() == [1, 1]
    assert frame["memory_mib"].tolist() == [3072, 3072]
    assert values(data, "cpu_cores", "Mimosa") == {"02 10:00": 0, "02 10:05": 0}
    assert machines(data)["Mimosa"]["host"] == "Sirius"
    hosts = data.hosts()
    assert hosts is not None
    assert hosts.to_pylist()[0]["threads"] == 16
    assert "Mem (bytes) holds KiB, though its name says bytes." in detected(data)


def test_memory_in_bytes(tmp_path: Path) -> None:
    rows = [row(time).replace("3145728", "3221225472") for time in ("10:00:00", "10:05:00")]
    rows = [one.replace("8388608,25", "8589934592,25") for one in rows]
    data = run(tmp_path, row("09:55:00", None), *rows)
    assert trace(data).groupby("vm")["memory_mib"].max()["Polaris"] == 3072
    assert "Mem (bytes) holds bytes." in detected(data)


def test_date_goes_on_at_midnight(tmp_path: Path) -> None:
    rows = [row(time) for time in ("23:50:00", "23:55:00", "00:00:00", "00:05:00")]
    data = run(tmp_path, *rows)
    assert list(values(data, "cpu_cores", "Polaris")) == ["02 23:50", "02 23:55", "03 00:00"]


def test_joined_files_repeat_the_header(tmp_path: Path) -> None:
    data = run(tmp_path, row("10:00:00"), row("10:05:00"), HEADER, row("10:10:00"))
    assert len(values(data, "cpu_cores", "Polaris")) == 2


def test_domain_that_starts_later(tmp_path: Path) -> None:
    alone = FIRST + ",2,Mimosa,0.,0.,8388608,25,0,0,0,0"
    starting = FIRST + OFF.replace("2,Mimosa,0.,0.,0,0,,,,", "2,Mimosa,0.,0.,8388608,25,0,0,0,0")
    rows = [alone.format("10:00:00"), alone.format("10:05:00"), starting.format("10:10:00")]
    data = run(tmp_path, *rows, row("10:15:00"))
    assert list(values(data, "cpu_cores", "Polaris")) == ["02 10:10"]
    assert len(values(data, "cpu_cores", "Mimosa")) == 3


def test_hour_that_the_clock_repeats_is_a_gap(tmp_path: Path) -> None:
    hours = ("01", "02", "02", "03")  # 2:00 to 3:00 comes twice
    rows = [row(f"{hour}:{minute}:00") for hour in hours for minute in ("00", "15", "30", "45")]
    data = run(tmp_path, *rows, day=date(2026, 10, 25), zone="Europe/Berlin")
    # The clock goes back between 2:45 and 2:00, so no interval is between these rows.
    assert counts(data)["clock-change"] == 2 * 7
    assert set(finding_machines(data, "clock-change")) == {"Mimosa", "Polaris"}
    times = list(values(data, "cpu_cores", "Polaris"))
    assert times == [
        *("24 23:00", "24 23:15", "24 23:30", "24 23:45"),
        *("25 02:00", "25 02:15", "25 02:30"),
    ]


@pytest.mark.parametrize("time", ["25:00:00", "noon", "10:00"])
def test_time_must_be_one(tmp_path: Path, time: str) -> None:
    with pytest.raises(Exception, match="is no time of day"):
        run(tmp_path, row("10:00:00"), row(time))
