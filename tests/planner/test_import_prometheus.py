"""Answers of Prometheus: counters, resets, sums over devices and files, forks, hosts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.planner.importing import (
    counts,
    detected,
    finding_machines,
    import_from,
    machines,
    trace,
    values,
)

START = 1772409600  # 2026-03-02 0:00 UTC
GIB = 1 << 30


def series(name: str, numbers: Sequence[float | str], **labels: str) -> dict[str, Any]:
    points = [[START + 300 * n, str(one)] for n, one in enumerate(numbers) if one != ""]
    return {"metric": {"__name__": name, **labels}, "values": points}


def answer(path: Path, *results: dict[str, Any]) -> Path:
    content = {"status": "success", "data": {"resultType": "matrix", "result": list(results)}}
    path.write_text(json.dumps(content))
    return path


def domain(name: str, numbers: Sequence[float | str], **labels: str) -> dict[str, Any]:
    return series(f"libvirt_domain_{name}", numbers, domain="web", instance="kvm1:9177", **labels)


CPU = domain("info_cpu_time_seconds_total", [0, 300, 900, 900])


def test_libvirt_exporter(tmp_path: Path) -> None:
    file = answer(
        tmp_path / "all.json",
        CPU,
        domain("info_virtual_cpus", [4, 4, 4, 4]),
        domain("info_maximum_memory_bytes", [8 * GIB] * 4),
        domain("info_memory_usage_bytes", [4 * GIB] * 4),
        domain("block_stats_read_requests_total", [0, 300, 600, 900], target_device="vda"),
        domain("block_stats_read_requests_total", [0, 600, 1200, 1800], target_device="vdb"),
        domain("block_stats_write_requests_total", [0, 30, 60, 90], target_device="vda"),
        domain("interface_stats_receive_bytes_total", [0, *[300 << 20] * 3], target_device="v"),
        domain("interface_stats_transmit_bytes_total", [0, *[600 << 20] * 3], target_device="v"),
        domain("info_vstate", [1, 1, 1, 1]),
    )
    data = import_from(tmp_path / "data", file)
    frame = trace(data)
    # Rates belong to intervals, and memory to moments. So the last sample has no rate.
    assert frame["cpu_cores"].tolist() == pytest.approx([1, 2, 0, float("nan")], nan_ok=True)
    assert frame["read_iops"].tolist()[:3] == [3, 3, 3]
    assert frame["write_iops"].tolist()[0] == pytest.approx(0.1)
    assert frame["net_mib_s"].tolist()[:2] == [3, 0]
    assert frame["memory_mib"].tolist() == [4096] * 4
    vm = machines(data)["web"]
    assert (vm["vcpus"], vm["memory_mib"], vm["host"], vm["powered_on"]) == (4, 8192, "kvm1", True)
    assert "info_cpu_time_seconds_total is a counter" in detected(data)


def test_one_file_for_each_metric(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    answer(folder / "cpu.json", CPU)
    for way in ("receive", "transmit"):
        one = domain(f"interface_stats_{way}_bytes_total", [0, *[300 << 20] * 3])
        answer(folder / f"{way}.json", one)
    data = import_from(tmp_path / "data", folder)
    assert trace(data)["net_mib_s"].tolist()[:2] == [2, 0]
    assert trace(data)["cpu_cores"].tolist()[:2] == [1, 2]
    assert "duplicate" not in counts(data)


def test_reset_of_a_counter_is_a_gap(tmp_path: Path) -> None:
    seconds = [*range(0, 3000, 300), *range(0, 3000, 300)]
    data = import_from(
        tmp_path / "data",
        answer(tmp_path / "a.json", domain("info_cpu_time_seconds_total", seconds)),
    )
    assert counts(data)["counter-reset"] == 1
    assert finding_machines(data, "counter-reset") == ("web",)
    # one step is missing, which is short enough to carry the value before
    assert set(trace(data)["cpu_cores"]) == {1}
    assert counts(data)["carried"] == 1


def test_scrape_that_is_seen_twice_is_no_burst(tmp_path: Path) -> None:
    seconds = [0, 300, 600, 600, 1200, 1500]
    file = answer(tmp_path / "a.json", domain("info_cpu_time_seconds_total", seconds))
    data = import_from(tmp_path / "data", file)
    assert trace(data)["cpu_cores"].tolist() == [1, 1, 1, 1, 1]


def test_counter_that_stands_still_is_no_demand(tmp_path: Path) -> None:
    seconds = [0, 300, 300, 300, 300, 600]
    file = answer(tmp_path / "a.json", domain("info_cpu_time_seconds_total", seconds))
    data = import_from(tmp_path / "data", file)
    assert trace(data)["cpu_cores"].tolist() == [1, 0, 0, 0, 1]


def test_long_gap_of_a_counter_stays_one(tmp_path: Path) -> None:
    seconds: list[float | str] = [0, 300, 600, *[""] * 6, 2700, 3000]
    data = import_from(
        tmp_path / "data",
        answer(tmp_path / "a.json", domain("info_cpu_time_seconds_total", seconds)),
    )
    assert list(values(data, "cpu_cores")) == ["02 00:00", "02 00:05", "02 00:10", "02 00:45"]
    assert counts(data)["gap"] == 1


@pytest.mark.parametrize(
    ("metrics", "label"),
    [
        (
            ("cpu_time_seconds_total", "info_vcpus", "info_max_memory_bytes", "info_memory_bytes"),
            "domain",
        ),
        (
            (
                "vcpu_time_seconds_total",
                "vcpu_current",
                "info_maximum_memory_bytes",
                "memory_stats_rss_bytes",
            ),
            "domainname",
        ),
    ],
)
def test_names_of_forks(tmp_path: Path, metrics: tuple[str, ...], label: str) -> None:
    columns: list[list[float | str]] = [[0, 600, 1200], [2] * 3, [2 * GIB] * 3, [GIB] * 3]
    results = [
        series(f"libvirt_domain_{name}", numbers, **{label: "web"})
        for name, numbers in zip(metrics, columns, strict=True)
    ]
    data = import_from(tmp_path / "data", answer(tmp_path / "a.json", *results))
    assert trace(data)["cpu_cores"].tolist()[:2] == [2, 2]
    assert trace(data)["memory_mib"].tolist()[:2] == [1024, 1024]
    assert machines(data)["web"]["memory_mib"] == 2048


def test_resident_memory_is_preferred_and_cpu_time_counts_once(tmp_path: Path) -> None:
    file = answer(
        tmp_path / "a.json",
        domain("info_memory_usage_bytes", [4 * GIB] * 3),
        domain("memory_stats_rss_bytes", [GIB] * 3),
        domain("vcpu_time_seconds_total", [0, 300, 600], vcpu="0"),
        domain("info_cpu_time_seconds_total", [0, 330, 660]),
    )
    frame = trace(import_from(tmp_path / "data", file))
    assert frame["memory_mib"].tolist() == [1024] * 3
    assert frame["cpu_cores"].tolist()[:2] == pytest.approx([1.1] * 2)


def node(name: str, numbers: Sequence[float | str], **labels: str) -> dict[str, Any]:
    return series(f"node_{name}", numbers, instance="app1:9100", **labels)


def test_node_exporter(tmp_path: Path) -> None:
    modes = {"user": 30, "system": 60, "idle": 210, "iowait": 15, "guest": 30}
    cpus = [
        node("cpu_seconds_total", [0, seconds, 2 * seconds], cpu=str(cpu), mode=mode)
        for mode, seconds in modes.items()
        for cpu in range(2)
    ]
    file = answer(
        tmp_path / "a.json",
        *cpus,
        node("memory_MemTotal_bytes", [4 * GIB] * 3),
        node("memory_MemAvailable_bytes", [3 * GIB] * 3),
        node("disk_reads_completed_total", [0, 300, 600], device="sda"),
        node("disk_reads_completed_total", [0, 300, 600], device="sda1"),
        node("disk_reads_completed_total", [0, 300, 600], device="dm-0"),
        node("network_receive_bytes_total", [0, 300 << 20, 600 << 20], device="eth0"),
        node("network_receive_bytes_total", [0, 300 << 20, 600 << 20], device="lo"),
        node("network_transmit_bytes_total", [0, 0, 0], device="eth0"),
        node("pressure_cpu_waiting_seconds_total", [0, 1, 2]),
    )
    data = import_from(tmp_path / "data", file)
    frame = trace(data)
    assert frame["cpu_cores"].tolist()[:2] == pytest.approx([0.6, 0.6])
    assert frame["memory_mib"].tolist() == [1024] * 3
    assert frame["read_iops"].tolist()[:2] == [1, 1]
    assert frame["net_mib_s"].tolist()[:2] == [1, 1]
    assert machines(data)["app1"]["vcpus"] == 2
    assert "not used: node_pressure_cpu_waiting_seconds_total" in detected(data)


def test_node_exporter_with_idle_time_only(tmp_path: Path) -> None:
    cpus = [node("cpu_seconds_total", [0, 270, 540], cpu=str(cpu), mode="idle") for cpu in range(4)]
    data = import_from(tmp_path / "data", answer(tmp_path / "a.json", *cpus))
    assert trace(data)["cpu_cores"].tolist() == pytest.approx([0.4, 0.4])


def test_node_exporter_of_a_host_of_domains_describes_the_host(tmp_path: Path) -> None:
    host = series("node_memory_MemTotal_bytes", [64 * GIB] * 4, instance="kvm1:9100")
    data = import_from(tmp_path / "data", answer(tmp_path / "a.json", CPU, host))
    assert list(machines(data)) == ["web"]
    hosts = data.hosts()
    assert hosts is not None
    assert hosts.to_pylist()[0]["memory_mib"] == 65536


def test_machine_that_is_shut_off(tmp_path: Path) -> None:
    file = answer(
        tmp_path / "a.json",
        domain("info_vstate", [5, 5]),
        domain("info_virtual_cpus", [2, 2]),
        domain("info_maximum_memory_bytes", [GIB] * 2),
    )
    data = import_from(tmp_path / "data", file)
    assert finding_machines(data, "powered-off") == ("web",)
    assert data.description.samples == 0
