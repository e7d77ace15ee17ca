"""What a window costs, from counters of real processes and from chosen readings."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from suites.consolidation import host_counters
from suites.consolidation.accounting import GuestReading, Reading, cost

SCRIPT = Path(host_counters.__file__)


def counters(*groups: Path, memory: bool = False, at: float = 0.0) -> dict[str, Any]:
    argv = [sys.executable, "-I", "-S", str(SCRIPT), str(at), *(["--memory"] if memory else [])]
    text = "\n".join(map(str, groups))
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of version 2 on this machine."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text("ascii").splitlines()]
    mount = next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)
    if mount is None or not os.access(mount, os.W_OK):
        pytest.skip("this machine has no writable cgroup version 2")
    path = mount / f"pytest-hypervisor-counters-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as error:
        pytest.skip(f"{path} cannot be made: {error}")
    yield path
    path.rmdir()


def test_counters_of_a_cgroup_are_those_of_its_processes(cgroup: Path) -> None:
    before = counters(cgroup)
    code = "b = bytearray(50 << 20)\nprint(flush=True)\nwhile True: pass"
    busy = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with busy:
        try:
            (cgroup / "cgroup.procs").write_text(str(busy.pid))
            assert busy.stdout is not None
            busy.stdout.readline()
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                after = counters(cgroup, memory=True)
                used = after["groups"][str(cgroup)]["cpu"] - before["groups"][str(cgroup)]["cpu"]
                if used > 0.3:
                    break
        finally:
            busy.kill()
    counts, seconds = after["groups"][str(cgroup)], after["time"] - before["time"]
    assert 0.3 < used <= seconds
    ticks, running, waiting = counts["threads"][str(busy.pid)]
    assert ticks == 0  # it runs no guest
    assert running >= used - 0.1
    assert 0 <= waiting <= seconds
    assert counts["private"] > 50 << 20
    assert 0 < counts["shared"] < counts["private"]
    idle = sum(after["cpus"][cpu][0] - before["cpus"][cpu][0] for cpu in after["cpus"])
    assert used <= seconds * len(after["cpus"]) - idle + 0.1


def test_a_cgroup_that_is_gone_has_no_counters(tmp_path: Path) -> None:
    assert counters(tmp_path / "gone")["groups"] == {}


def test_counters_are_read_at_a_moment() -> None:
    at = time.monotonic() + 2
    assert at <= counters(at=at)["time"] < at + 0.5


def guest(exits: int = 0, *, container: bool = False, **counts: Any) -> GuestReading:
    counts = {"threads": {}, **counts}
    return GuestReading(counts, {} if container else {"exits": exits}, container)


def reading(time: float, guests: Mapping[int, GuestReading], **changes: Any) -> Reading:
    values: dict[str, Any] = {
        "time": time, "idle": {0: time / 2, 1: time / 4}, "steal": {0: 0.0, 1: time / 100},
        "swapped": 7, "disks": (int(time), 0), "pressure": {"cpu": time / 5}, "energy": {},
        "guests": guests, "generator": time / 10,
    }  # fmt: skip
    return Reading(**{**values, **changes})


MIB = float(1 << 20)


def test_cost_is_the_growth_of_the_window() -> None:
    first = {
        0: guest(100, cpu=1.0, memory=MIB, threads={"7": (0, 0.5, 0.2), "8": (0, 0.4, 0.0)}),
        1: guest(0, cpu=5.0),
    }
    last = {
        0: guest(150, cpu=3.0, memory=2 * MIB, threads={"7": (9, 2.0, 0.3), "8": (0, 0.9, 0.0)}),
        1: guest(30, cpu=6.0, threads={"9": (1, 0.7, 0.4)}),  # a new one
    }
    spent = cost(reading(10, first), reading(20, last, swapped=9), [0], [0, 1])
    assert (spent.seconds, spent.cpus, spent.host_cpus) == (10, 1, 2)
    assert (spent.busy, spent.busy_share) == (5, 0.5)
    assert spent.host_steal == pytest.approx(0.1)
    assert spent.swapped == 2
    assert spent.disks == (10, 0)
    assert spent.pressure == pytest.approx({"cpu": 0.2})
    assert spent.joules is None
    assert spent.guest_cpu == {0: 2, 1: 1}
    assert spent.memory == {0: 2, 1: 0}
    assert spent.exits == {"exits": 80}
    assert spent.demand == pytest.approx(1.5 + 0.7)
    assert spent.steal == pytest.approx(0.1 + 0.4)
    assert spent.generator_cpu == 1
    assert spent.unread == 0


def test_a_containers_work_is_the_cpu_time_of_its_cgroup() -> None:
    first = {0: guest(container=True, cpu=1.0)}
    last = {0: guest(container=True, cpu=2.5, threads={"7": (0, 1.0, 9.0)})}
    spent = cost(reading(0, first), reading(10, last), [0, 1], [0])
    assert (spent.demand, spent.steal, spent.exits) == (1.5, 0, {})


def test_guests_that_ended_do_not_count_and_others_without_counters_are_named() -> None:
    first = {0: guest(1, cpu=1.0), 1: guest(1, cpu=1.0), 2: guest(1, cpu=1.0)}
    last = {0: guest(2, cpu=2.0), 2: GuestReading({}, {}, container=False)}
    spent = cost(reading(0, first), reading(10, last), [0], alive=[0, 2])
    assert spent.guest_cpu == {0: 1}
    assert spent.unread == 1


def test_mapped_memory_is_that_of_the_last_reading() -> None:
    last = guest(cpu=0.0, private=3 * MIB, shared=2 * MIB, merged=MIB)
    spent = cost(reading(0, {0: guest(cpu=0.0)}), reading(1, {0: last}), [0], [0])
    assert spent.mapped == {0: {"private": 3, "shared": 2, "merged": 1}}


def test_traffic_is_the_growth_of_what_both_readings_have() -> None:
    names = ("network.sent", "disks.read", "disks.written")
    first, last = (
        GuestReading({"cpu": 0.0, "threads": {}}, {}, container=True, traffic=counts)
        for counts in (
            dict(zip(names[:2], (5, 7), strict=True)),
            dict(zip(names, (25, 7, 9), strict=True)),
        )
    )
    spent = cost(reading(0, {0: first}), reading(1, {0: last}), [0], [0])
    assert spent.traffic == {0: {"network.sent": 20, "disks.read": 0}}


def test_disks_of_a_cgroup_are_added() -> None:
    line = "253:0 rbytes=4096 wbytes=512 rios=1 wios=1 dbytes=0 dios=0\n"
    assert host_counters.disks_of(line + line.replace("253", "8") + "7:0 \n") == (8192, 1024)
    assert host_counters.disks_of("") == (0, 0)


def test_interfaces_are_those_of_this_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = counters()["interfaces"]["lo"]
        with socket.create_connection(server.getsockname()) as one:
            other, _ = server.accept()
            with other:
                one.sendall(bytes(100_000))
                left = 100_000
                while left:
                    left -= len(other.recv(left))
        after = counters()["interfaces"]["lo"]
    for first, last in zip(before, after, strict=True):
        assert last - first >= 100_000


def write_zones(sys_folder: Path, **zones: tuple[str, int]) -> None:
    """RAPL zones as in sysfs, links in one folder: name and uJ by the numbers of a zone."""
    for numbers, (name, used) in zones.items():
        path = f"intel-rapl:{numbers.removeprefix('zone').replace('_', ':')}"
        real = sys_folder / "devices" / path
        real.mkdir(parents=True, exist_ok=True)
        for file, value in (("name", name), ("energy_uj", used), ("max_energy_range_uj", RANGE)):
            (real / file).write_text(f"{value}\n")
        link = sys_folder / "class/powercap" / path
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(real)


RANGE = 262_143_000_000  # uJ


def test_energy_is_that_of_packages_also_when_a_counter_starts_again(tmp_path: Path) -> None:
    nested = {"zone0_0": ("core", 5), "zone0_1": ("dram", 6), "zone2": ("psys", 7)}
    write_zones(
        tmp_path, zone0=("package-0", 262_000_000_000), zone1=("package-1", 4_000_000), **nested
    )
    first = host_counters.energy(tmp_path)
    assert first == {"intel-rapl:0": (262_000, 262_143), "intel-rapl:1": (4, 262_143)}
    write_zones(tmp_path, zone0=("package-0", 7_000_000), zone1=("package-1", 24_000_000))
    (tmp_path / "class/powercap/intel-rapl").mkdir()
    last = host_counters.energy(tmp_path)
    spent = cost(reading(0, {}, energy=first), reading(10, {}, energy=last), [0], [])
    assert spent.joules == pytest.approx(143 + 7 + 20)


def test_a_host_that_does_not_count_energy_has_none(tmp_path: Path) -> None:
    assert host_counters.energy(tmp_path) == {}
    write_zones(tmp_path, zone0=("package-0", 1))
    (tmp_path / "class/powercap/intel-rapl:0/energy_uj").write_text("")
    assert host_counters.energy(tmp_path) == {}
    once = reading(0, {}, energy={"intel-rapl:0": (1.0, 9.0)})
    assert cost(once, reading(1, {}), [0], []).joules is None
