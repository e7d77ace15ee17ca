"""RVTools: workbooks and CSV files of tabs, newer and older names of columns, languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.planner.data_folder import DataFolder
from tests.planner.importing import (
    counts,
    csv_trace,
    detected,
    finding_machines,
    import_from,
    machines,
    write,
    xlsx,
)

V_INFO: list[list[Any]] = [
    [
        *("VM", "Powerstate", "Template", "CPUs", "Memory", "Provisioned MiB", "In Use MiB"),
        *("Cluster", "Host", "VM UUID"),
    ],
    ["web", "poweredOn", False, 4, 8192, 102400, 51200, "prod", "esx1", "u1"],
    ["old", "poweredOff", False, 2, 4096, 20480, 20480, "prod", "esx1", "u2"],
    ["golden", "poweredOff", True, 2, 4096, 20480, 20480, "prod", "esx1", "u3"],
    ["web", "poweredOn", False, 8, 16384, 204800, 1024, "test", "esx2", "u4"],
]
V_HOST: list[list[Any]] = [
    ["Host", "Cluster", "CPU Model", "Speed", "HT Active", "# CPU", "# Cores", "# Memory"],
    ["esx1", "prod", "Xeon Gold 6130", 2095, True, 2, 32, 393216],
]
V_MEMORY: list[list[Any]] = [["VM", "Size MiB", "VM UUID"], ["web", 8192, "u1"]]


def csv_text(rows: list[list[Any]], separator: str = ",") -> str:
    return "\n".join(separator.join(f'"{cell}"' for cell in row) for row in rows)


def check(data: DataFolder) -> None:
    found = machines(data)
    assert list(found) == ["web", "old", "golden", "web (2)"]
    web = found["web"]
    assert (web["vcpus"], web["memory_mib"], web["disk_gib"]) == (4, 8192, 100)
    assert (web["host"], web["cluster"]) == ("esx1", "prod")
    assert found["web (2)"]["vcpus"] == 8
    assert counts(data) == {
        "without-trace": 2,
        "same-name": 1,
        "powered-off": 1,
        "template": 1,
    }
    assert finding_machines(data, "powered-off") == ("old",)
    hosts = data.hosts()
    assert hosts is not None
    assert hosts.to_pylist() == [
        {
            "host": "esx1",
            "cluster": "prod",
            "model": "Xeon Gold 6130",
            "cores": 32,
            "threads": 64,
            "mhz": 2095,
            "memory_mib": 393216,
        }
    ]
    assert data.description.samples == 0
    assert data.trace_files() == []
    assert "no demand" in detected(data)


def test_workbook(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine")
    sheets = {"vInfo": V_INFO, "vHost": V_HOST, "vMemory": V_MEMORY, "vDisk": [["VM"], ["web"]]}
    check(import_from(tmp_path / "data", xlsx(tmp_path / "RVTools_export_all.xlsx", sheets)))


def test_csv_files_of_tabs(tmp_path: Path) -> None:
    folder = tmp_path / "RVTools_export_all_2026-03-02"
    for tab, rows in (("vInfo", V_INFO), ("vHost", V_HOST), ("vMemory", V_MEMORY)):
        write(folder / f"RVTools_tab{tab}.csv", csv_text(rows))
    write(folder / "RVTools_tabvDisk.csv", csv_text([["VM", "Disk"], ["web", "Hard disk 1"]]))
    check(import_from(tmp_path / "data", folder))


def test_older_names_of_columns(tmp_path: Path) -> None:
    info: list[list[Any]] = [
        [
            *("vInfoVMName", "vInfoPowerstate", "vInfoTemplate", "vInfoCPUs", "vInfoMemory"),
            *("vInfoProvisioned", "vInfoInUse", "vInfoCluster", "vInfoHost", "vInfoUUID"),
        ],
        *V_INFO[1:],
    ]
    host: list[list[Any]] = [
        [
            *("vHostName", "vHostCluster", "vHostCpuModel", "vHostCpuMhz", "vHostHTActive"),
            *("vHostNumCpu", "vHostNumCpuCores", "vHostMemorySize"),
        ],
        ["esx1", "prod", "Xeon Gold 6130", 2095, True, 2, 32, 393216 << 20],  # in bytes
    ]
    write(tmp_path / "x" / "RVTools_tabvInfo.csv", csv_text(info))
    write(tmp_path / "x" / "RVTools_tabvHost.csv", csv_text(host))
    check(import_from(tmp_path / "data", tmp_path / "x"))


@pytest.mark.parametrize("thousands", [",", ".", "\u00a0", "'"])
def test_separators_of_thousands(tmp_path: Path, thousands: str) -> None:
    rows = [V_INFO[0], [*V_INFO[1][:4], f"8{thousands}192", f"102{thousands}400", *V_INFO[1][6:]]]
    file = write(tmp_path / "RVTools_tabvInfo.csv", csv_text(rows, ";"))
    found = machines(import_from(tmp_path / "data", file))["web"]
    assert (found["memory_mib"], found["disk_gib"]) == (8192, 100)


def test_with_a_trace_beside_it(tmp_path: Path) -> None:
    file = write(tmp_path / "RVTools_tabvInfo.csv", csv_text(V_INFO))
    rows = ["2026-03-02T00:00:00Z,web,50", "2026-03-02T00:05:00Z,web,100"]
    trace = csv_trace(tmp_path / "trace.csv", rows, "time,vm,cpu_percent")
    data = import_from(tmp_path / "data", file, trace)
    assert finding_machines(data, "without-trace") == ("web (2)",)
    assert data.description.with_trace == 1


def test_windows_encoding(tmp_path: Path) -> None:
    rows = [V_INFO[0], ["Büro", *V_INFO[1][1:]]]
    path = tmp_path / "RVTools_tabvInfo.csv"
    path.write_bytes(csv_text(rows).encode("cp1252"))
    assert list(machines(import_from(tmp_path / "data", path))) == ["Büro"]
