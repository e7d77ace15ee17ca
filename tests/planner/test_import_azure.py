"""Tables like those of Azure's public data set, with and without a header."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from tests.planner.importing import (
    counts,
    csv_trace,
    detected,
    finding_machines,
    import_from,
    machines,
    trace,
    values,
    write,
)

VM = "yNf/R3X8fyXkOJm3ihXQcT0F52a8cDWPPRzTT6QFW8N+1QPfeKR5//6xyX0VYn7X"
OTHER = VM.replace("yNf", "aaa")


def readings(path: Path, rows: list[tuple[int, str, float, float, float]]) -> Path:
    """A file without a header: seconds, id, minimum, maximum, mean."""
    return write(path, "".join(",".join(map(str, row)) + "\n" for row in rows))


def vm_table(path: Path, sizes: dict[str, tuple[str, str]]) -> Path:
    rows = [
        f"{vm},sub,dep,0,2591700,99.1,3.4,18.2,Interactive,{cores},{memory}\n"
        for vm, (cores, memory) in sizes.items()
    ]
    return write(path, "".join(rows))


def test_files_without_header(tmp_path: Path) -> None:
    rows = [(second, vm, 1.0, 50.0, 25.0) for second in (0, 300, 600) for vm in (VM, OTHER)]
    data = import_from(
        tmp_path / "data",
        readings(tmp_path / "vm_cpu_readings-file-1-of-1.csv", rows),
        vm_table(tmp_path / "vmtable.csv", {VM: ("4", "32"), OTHER: (">24", ">64")}),
        date=date(2019, 1, 1),
    )
    assert values(data, "cpu_cores", VM) == {"01 00:00": 1, "01 00:05": 1, "01 00:10": 1}
    assert values(data, "cpu_cores_max", VM)["01 00:00"] == 2
    assert machines(data)[VM]["memory_mib"] == 32768
    assert machines(data)[OTHER]["vcpus"] == 30
    assert finding_machines(data, "open-bucket") == (OTHER,)
    assert "seconds since 2019-01-01" in detected(data)


def test_files_with_header_and_times(tmp_path: Path) -> None:
    table = csv_trace(tmp_path / "vms.csv", ["v1,2,8"], "VM ID,VM core count,VM memory")
    file = csv_trace(
        tmp_path / "cpu.csv",
        ["v1,2026-03-02 00:00:00Z,0,10,5", "v1,2026-03-02 00:05:00Z,0,20,10"],
        "vmId,timestamp,min cpu,max cpu,avg cpu",
    )
    data = import_from(tmp_path / "data", file, table)
    assert trace(data)["cpu_cores"].tolist() == pytest.approx([0.1, 0.2])
    assert trace(data)["cpu_cores_max"].tolist() == pytest.approx([0.2, 0.4])
    assert "without-inventory" not in counts(data)
