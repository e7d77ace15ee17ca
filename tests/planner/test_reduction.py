"""The reduction of samples, against a second implementation in plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.errors import PlanError
from harness.planner import reduction
from harness.planner.constraints import NamedConstraints
from harness.planner.data_folder import DataFolder
from harness.planner.hosts_file import HostsFile, Site, Today
from harness.planner.model import Model
from harness.planner.overhead import Overhead
from harness.planner.planned_machines import read_machines
from harness.planner.reduction import CPU, IOPS, MEMORY, NETWORK, Profile, Window, reduce_trace
from harness.planner.samples import HOURS, Grid
from tests.planner.data_folders import HOST, Machine, steady, write_data

SITE = Site("USD", 1.5, 0.4, 0.1, None)
HOSTS = HostsFile((HOST,), SITE, None, NamedConstraints())
NAN = math.nan
WEEK = 168 * 12  # moments of 5 minutes


def reduced(folder: DataFolder, hosts: HostsFile = HOSTS, **options: float) -> Profile:
    machines = read_machines(folder, hosts)
    grid = Grid.of(folder.description)
    (profile,) = reduce_trace(folder, machines, [Window(0, grid.count)], **options)  # type: ignore[arg-type]
    return profile


def random_machines(count: int, moments: int, seed: int = 1) -> list[Machine]:
    """Machines with all metrics; some samples are missing."""
    random = np.random.default_rng(seed)
    machines = []
    for number in range(count):
        values = {
            name: np.where(random.random(moments) < 0.02, NAN, scale * random.random(moments) ** 4)
            for name, scale in (
                ("cpu_cores", 4.0), ("memory_mib", 3000.0), ("read_iops", 100.0),
                ("write_iops", 50.0), ("net_mib_s", 10.0),
            )
        }  # fmt: skip
        machines.append(Machine(f"vm-{number}", values))
    return machines


def test_all_samples_of_a_small_trace_are_slots(tmp_path: Path) -> None:
    machines = random_machines(5, 600)
    profile = reduced(write_data(tmp_path / "data", machines, moments=600))
    assert profile.slots.single.all()
    assert profile.demand.shape == (5, 4, 600)
    for row, machine in enumerate(machines):
        cpu = np.asarray(machine.values["cpu_cores"], np.float32)
        known = ~np.isnan(cpu)
        assert np.array_equal(profile.demand[row, CPU][known], cpu[known])
        assert (profile.demand[row, CPU][~known] > 0).all()
        highest = np.nanmax(np.asarray(machine.values["memory_mib"], np.float32))
        assert (profile.demand[row, MEMORY] == highest).all()
    assert np.allclose(profile.totals, profile.demand.sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize("most", [168, 400, 2000, 10**6])
def test_slots_cover_every_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """most: slots of a machine. The trace has 4200 samples, 350 hours."""
    moments = 2 * WEEK + 168
    folder = write_data(tmp_path / "data", random_machines(4, moments), moments=moments)
    samples = reduced(folder)
    assert samples.slots.single.all()
    monkeypatch.setattr(reduction, "_MAX_SAMPLES", 0)
    monkeypatch.setattr(reduction, "_MAX_SLOTS", 4 * most)
    coarse = reduced(folder)
    assert HOURS < coarse.slots.count <= max(most, HOURS + 3 * 12)  # the busiest hour is split
    assert coarse.slots.single.any()
    expected = np.zeros_like(coarse.demand)
    for moment, slot in enumerate(coarse.slots.slot_of):
        expected[:, :, slot] = np.maximum(expected[:, :, slot], samples.demand[:, :, moment])
    assert np.array_equal(coarse.demand, expected)
    assert np.allclose(coarse.totals, samples.totals)  # sums are exact for all slots


def test_busy_times_are_packed_sample_by_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At noon machines need most, and not all in the same sample of an hour."""
    random = np.random.default_rng(1)
    moments = WEEK
    noon = np.arange(moments) // 12 % 24 == 12
    machines = [
        Machine(f"vm-{n}", {"cpu_cores": np.where(noon, 3, 1) * random.random(moments)})
        for n in range(20)
    ]
    folder = write_data(tmp_path / "data", machines, moments=moments)
    monkeypatch.setattr(reduction, "_MAX_SAMPLES", 0)
    monkeypatch.setattr(reduction, "_MAX_SLOTS", 20 * 400)
    profile = reduced(folder)
    single = profile.slots.single[profile.slots.slot_of]
    assert single[noon].all()
    assert single.mean() < 0.2
    sums = profile.demand[:, CPU].sum(axis=0)
    assert sums.max() == pytest.approx(profile.totals[CPU].max(), rel=1e-5)


def test_statistics_are_those_of_measured_values(tmp_path: Path) -> None:
    machines = random_machines(3, 500)
    profile = reduced(write_data(tmp_path / "data", machines, moments=500))
    for row, machine in enumerate(machines):
        cpu = np.asarray(machine.values["cpu_cores"], np.float32)
        cpu = cpu[~np.isnan(cpu)]
        assert profile.mean[row, CPU] == pytest.approx(cpu.mean(), rel=1e-5)
        assert profile.peak[row, CPU] == cpu.max()
        assert profile.cpu_p95[row] == pytest.approx(np.percentile(cpu, 95), rel=1e-5)
        reads, writes = (
            np.nan_to_num(np.asarray(machine.values[name], np.float32))
            for name in ("read_iops", "write_iops")
        )
        assert profile.peak[row, IOPS] == pytest.approx((reads + writes).max(), rel=1e-5)


def test_a_machine_without_trace_has_its_allocation_and_is_listed(tmp_path: Path) -> None:
    about = {"vcpus": 8.0, "memory_mib": 16_384.0}
    machines = [*random_machines(3, 50), Machine("new", about=about)]
    folder = write_data(tmp_path / "data", machines, moments=50)
    profile = reduced(folder)
    assert profile.without_trace == ("new",)
    assert (profile.demand[3, CPU] == 8).all()
    assert (profile.demand[3, MEMORY] == 16_384).all()
    each = np.median(profile.peak[:3, IOPS] / 4)  # of 4 vCPUs
    assert profile.demand[3, IOPS, 0] == pytest.approx(8 * each)
    names = [row.name for row in profile.assumptions]
    assert "CPU of machines without a trace" in names
    assert (reduced(folder, vcpus_per_core=4).demand[3, CPU] == 2).all()


def test_memory_that_nobody_measured_is_what_is_allocated(tmp_path: Path) -> None:
    machines = [
        Machine("measured", {"cpu_cores": [1, 1], "memory_mib": [100, 200]}),
        Machine("allocated", {"cpu_cores": [1, 1]}, about={"memory_mib": 2048.0}),
        Machine("unknown", {"cpu_cores": [1, 1]}, about={"memory_mib": None, "vcpus": 2.0}),
    ]
    profile = reduced(write_data(tmp_path / "data", machines, moments=2))
    memory = profile.demand[:, MEMORY, 0].tolist()
    assert memory[:2] == [200, 2048]
    assert memory[2] == pytest.approx(2 * np.median([200 / 4, 2048 / 4]))
    assert not profile.planned[IOPS]
    assert not profile.planned[NETWORK]
    text = {row.name: row.value for row in profile.assumptions}
    assert text["iops that nobody measured"] == "not planned: no source has it"


def test_data_without_any_memory_is_refused(tmp_path: Path) -> None:
    machine = Machine("vm", {"cpu_cores": [1, 1]}, about={"memory_mib": None})
    folder = write_data(tmp_path / "data", [machine], moments=2)
    with pytest.raises(PlanError, match="no machine has a size of memory") as raised:
        reduced(folder)
    assert "memory_mib" in raised.value.hint


def test_templates_and_machines_that_are_off_are_left_out(tmp_path: Path) -> None:
    machines = [
        steady("vm", 1, 2),
        steady("off", 1, 2, powered_on=False, vcpus=2.0, memory_mib=1024.0),
        Machine("template", about={"template": True}),
    ]
    folder = write_data(tmp_path / "data", machines, moments=2)
    found = read_machines(folder, HOSTS)
    assert (found.names, found.left_out) == (("vm",), ("off", "template"))
    assert (found.off_vcpus, found.off_memory_mib) == (2.0, 1024.0)
    none = write_data(tmp_path / "off", machines[1:], moments=2)
    with pytest.raises(PlanError, match="no machine that is powered on"):
        read_machines(none, HOSTS)


@pytest.mark.parametrize("about", [{"vcpus": 0.0}, {"vcpus": NAN}, {"memory_mib": math.inf}])
def test_an_impossible_inventory_is_refused(tmp_path: Path, about: dict[str, float]) -> None:
    folder = write_data(tmp_path / "data", [Machine("vm", about=about)], moments=1)
    with pytest.raises(PlanError, match="impossible sizes") as raised:
        read_machines(folder, HOSTS)
    assert raised.value.hint == "import the sources again"
    twice = write_data(tmp_path / "twice", [Machine("vm"), Machine("vm")], moments=1)
    with pytest.raises(PlanError, match="repeated names"):
        read_machines(twice, HOSTS)


def test_demand_is_in_cores_of_rating_1(tmp_path: Path) -> None:
    """A core of the host of today counts as its rating."""
    machines = [steady("a", 2, 3, host="esx1"), steady("b", 2, 3, host="other"), steady("c", 2, 3)]
    folder = write_data(tmp_path / "data", machines, moments=3)
    old = replace(HOST, name="old", rating=0.5, names=("esx1",), count=1)
    hosts = replace(HOSTS, types=(HOST, old))
    assert reduced(folder, hosts).demand[:, CPU, 0].tolist() == [1, 2, 2]
    today = replace(hosts, today=Today("old", "hosts"))
    assert reduced(folder, today).demand[:, CPU, 0].tolist() == [1, 1, 1]


def test_windows_know_nothing_of_each_other(tmp_path: Path) -> None:
    moments = 100
    late = np.where(np.arange(moments) < 60, NAN, 3.0)
    machines = [
        steady("vm", 1, moments),
        Machine("late", {"cpu_cores": late, "memory_mib": late * 100}),
    ]
    folder = write_data(tmp_path / "data", machines, moments=moments)
    found = read_machines(folder, HOSTS)
    first, rest = reduce_trace(folder, found, [Window(0, 50), Window(50, 100)])
    assert first.without_trace == ("late",)
    assert (first.demand[1, CPU] == 4).all()  # its vCPUs
    assert rest.without_trace == ()
    assert (rest.demand[1, CPU] == 3).all()  # also where it has no sample
    assert first.grid.count == rest.grid.count == 50


def test_burst_counts_only_where_sources_hold_means_alone(tmp_path: Path) -> None:
    machines = [
        Machine("means", {"cpu_cores": [1, 2], "memory_mib": [1, 1]}),
        Machine("maxima", {"cpu_cores": [1, 2], "cpu_cores_max": [3, 3], "memory_mib": [1, 1]}),
        Machine("none", about={"vcpus": 5.0, "memory_mib": 1.0}),
    ]
    profile = reduced(write_data(tmp_path / "data", machines, moments=2))
    model = Model(Overhead(demand=1.0, guest=0.0, memory_mib=0.0), burst=2.0)
    assert model.demand(profile)[:, CPU].tolist() == [[2, 4], [3, 3], [5, 5]]
    assert model.totals(profile)[CPU].tolist() == [10, 12]


def test_overhead_and_growth_are_linear_in_demand_and_totals(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "data", random_machines(6, 80), moments=80)
    profile = reduced(folder)
    model = Model(Overhead(base=0.5, guest=0.1, demand=1.2, memory_mib=50), growth=1.5, burst=1.1)
    demand = model.demand(profile)
    expected = profile.demand.astype(np.float64)
    expected[:, CPU] = 0.1 + 1.2 * 1.5 * 1.1 * expected[:, CPU]
    expected[:, MEMORY] = 1.5 * expected[:, MEMORY] + 50
    expected[:, [IOPS, NETWORK]] *= 1.5
    assert np.allclose(demand, expected, rtol=1e-5)
    assert np.allclose(model.totals(profile), expected.sum(axis=0), rtol=1e-5)
    usable = model.usable(HOST)
    assert usable[CPU] == pytest.approx(0.7 * 10 - 0.5)
    assert usable[MEMORY] == HOST.memory_mib
    assert usable[IOPS] == pytest.approx(0.7 * 10_000)
    assert model.failover(HOST)[CPU] == pytest.approx(0.95 * 10 - 0.5)
