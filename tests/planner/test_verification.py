"""Verification on all samples, against a second implementation, and properties of packings."""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.planner import reduction
from harness.planner.bound import lower_bound
from harness.planner.cases import Case
from harness.planner.constraints import ResolvedConstraints
from harness.planner.data_folder import DataFolder
from harness.planner.hosts_file import HostsFile
from harness.planner.model import Model
from harness.planner.overhead import Overhead
from harness.planner.packed_case import PackedCase, Packer
from harness.planner.planned_machines import read_machines
from harness.planner.problem import Constraints
from harness.planner.reduction import CPU, IOPS, MEMORY, NETWORK, Profile, Window, reduce_trace
from harness.planner.today import OwnServers
from harness.planner.verification import TOLERANCE, Assignment, HostLoads, verify
from tests.planner.data_folders import HOST, STEP, Machine, write_data
from tests.planner.first_fit import first_fit
from tests.planner.test_reduction import HOSTS, SITE, random_machines

MOMENTS = 300
WHOLE = Window(0, MOMENTS)
MODEL = Model(Overhead(base=0.25, guest=0.05, demand=1.1, memory_mib=30), growth=1.2, burst=1.3)
LARGE = replace(HOST, cores=20.0)
FREE = ResolvedConstraints(Constraints(), ())


def profile_of(folder: DataFolder, window: Window = WHOLE, hosts: HostsFile = HOSTS) -> Profile:
    return reduce_trace(folder, read_machines(folder, hosts), [window])[0]


def gapless(machines: list[Machine]) -> list[Machine]:
    return [
        replace(one, values={k: np.nan_to_num(np.asarray(v)) for k, v in one.values.items()})
        for one in machines
    ]


@pytest.fixture
def machines() -> list[Machine]:
    return gapless(random_machines(9, MOMENTS))


def test_loads_are_the_sums_of_the_machines(tmp_path: Path, machines: list[Machine]) -> None:
    host_of = np.array([0, 1, 0, 2, 1, 0, -1, 2, 2])
    folder = write_data(tmp_path / "data", machines, moments=MOMENTS)
    profile = profile_of(folder)
    assignment = Assignment(host_of, (HOST,) * 3, MODEL, profile, WHOLE, detailed=True)
    (loads,) = verify(folder, [assignment])
    for host in range(3):
        own = [machine for machine, on in zip(machines, host_of, strict=True) if on == host]

        def total(*columns: str, own: list[Machine] = own) -> np.ndarray:
            return sum(np.asarray(one.values[name], np.float64) for one in own for name in columns)  # type: ignore[return-value]

        cpu = total("cpu_cores")
        busy = 0.25 + 0.05 * len(own) + 1.1 * 1.2 * cpu
        planned = 0.05 * len(own) + 1.1 * 1.2 * 1.3 * cpu
        memory = sum(1.2 * np.max(one.values["memory_mib"]) + 30 for one in own)
        assert np.allclose(loads.busy[host], busy, rtol=1e-4)
        assert np.allclose(loads.demand[CPU, host], planned, rtol=1e-4)
        assert np.allclose(loads.demand[MEMORY, host], memory, rtol=1e-4)
        iops = 1.2 * total("read_iops", "write_iops")
        assert np.allclose(loads.demand[IOPS, host], iops, rtol=1e-4)
        assert np.allclose(loads.demand[NETWORK, host], 1.2 * total("net_mib_s"), rtol=1e-4)
        usable = 0.7 * HOST.speed - 0.25
        assert loads.peaks()[host, CPU] == pytest.approx(planned.max() / usable, rel=1e-4)
        watts = [100 + 200 * min(share, 1) for share in busy / HOST.speed]
        assert loads.watts(loads.utilization())[host] == pytest.approx(np.mean(watts), rel=1e-4)
        by_hour: dict[int, float] = {}
        for moment, value in enumerate(planned):
            hour = int(moment * STEP // 3600)
            by_hour[hour] = max(by_hour.get(hour, 0.0), value / usable)
        hours = loads.hours()[host]
        assert hours[: len(by_hour)].tolist() == pytest.approx(list(by_hour.values()), rel=1e-4)
        assert np.isnan(hours[len(by_hour) :]).all()


def test_what_is_above_a_limit_is_counted(tmp_path: Path) -> None:
    cpu = np.full(MOMENTS, 1.0)
    cpu[10:15], cpu[20:22] = 8.0, 11.0  # of 10 cores; the target is 7
    machine = Machine("vm", {"cpu_cores": cpu, "memory_mib": np.full(MOMENTS, 10.0)})
    folder = write_data(tmp_path / "data", [machine], moments=MOMENTS)
    model = Model(Overhead(memory_mib=0.0))
    one = Assignment(np.array([0]), (HOST,), model, profile_of(folder), WHOLE, detailed=True)
    (loads,) = verify(folder, [one])
    assert (loads.over_target().sum(), loads.over_capacity().sum()) == (7, 2)
    assert loads.worst() == pytest.approx(1.1)


def test_memory_that_was_resident_before_stays(tmp_path: Path) -> None:
    memory = np.array([500.0, 900.0, 100.0, 100.0, 950.0, 200.0])
    machine = Machine("vm", {"cpu_cores": np.ones(6), "memory_mib": memory})
    folder = write_data(tmp_path / "data", [machine], moments=6)
    first, rest = (profile_of(folder, window) for window in (Window(0, 3), Window(3, 6)))
    one = Assignment(
        *(np.array([0]), (HOST,), Model(Overhead(memory_mib=0.0)), rest, Window(3, 6)),
        detailed=True,
        resident=first.peak[:, MEMORY],
    )
    (loads,) = verify(folder, [one])
    assert loads.demand[MEMORY, 0].tolist() == [900, 950, 950]


def test_assumed_demand_is_not_counted_twice(tmp_path: Path) -> None:
    """The machine has memory in the first part alone: in the rest its allocation counts."""
    memory = np.array([500.0, 500.0, math.nan, math.nan])
    machine = Machine("vm", {"cpu_cores": np.ones(4), "memory_mib": memory})
    folder = write_data(tmp_path / "data", [machine], moments=4)
    first, rest = (profile_of(folder, window) for window in (Window(0, 2), Window(2, 4)))
    one = Assignment(
        *(np.array([0]), (HOST,), Model(Overhead(memory_mib=0.0)), rest, Window(2, 4)),
        detailed=True,
        resident=first.peak[:, MEMORY],
    )
    (loads,) = verify(folder, [one])
    assert loads.demand[MEMORY, 0].tolist() == [4096, 4096]


def test_a_machine_without_trace_draws_power_like_the_others(tmp_path: Path) -> None:
    machines = [
        Machine("a", {"cpu_cores": [1.0, 1.0]}, about={"vcpus": 4.0}),
        Machine("new", about={"vcpus": 8.0}),
    ]
    folder = write_data(tmp_path / "data", machines, moments=2)
    window = Window(0, 2)
    one = Assignment(
        *(np.array([0, 1]), (HOST, HOST), Model(Overhead()), profile_of(folder, window), window),
        detailed=True,
    )
    (loads,) = verify(folder, [one])
    assert loads.busy.tolist() == [[1, 1], [2, 2]]  # a quarter of the vCPUs
    assert loads.demand[CPU].tolist() == [[1, 1], [8, 8]]  # and planned by all of them


def test_own_servers_are_hosts_of_one_machine_each(tmp_path: Path, machines: list[Machine]) -> None:
    everyone = [*machines, Machine("new")]
    folder = write_data(tmp_path / "data", everyone, moments=MOMENTS)
    profile = profile_of(folder)
    servers = OwnServers(HOST, profile)
    one = Assignment(np.arange(10), (HOST,) * 10, Model(Overhead()), profile, WHOLE)
    (loads,) = verify(folder, [one], [servers])
    utilization = loads.utilization()
    load = servers.load()
    assert load.watts == pytest.approx(loads.watts(utilization).sum(), rel=1e-5)
    assert load.utilization == pytest.approx(utilization.mean(), rel=1e-5)


def packed_and_verified(
    folder: DataFolder, model: Model, window: Window
) -> tuple[PackedCase, HostLoads]:
    profile = profile_of(folder, window)
    packer = Packer(first_fit, FREE, 1, lambda: False)
    packed = packer.packed(Case("this plan", model, (LARGE,), SITE), profile, 1)
    (loads,) = verify(folder, [packed.assignment(window, detailed=True)])
    return packed, loads


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 40),
    utilization=st.floats(0.5, 0.95),
    growth=st.floats(0.5, 1.5),
    most=st.sampled_from([10**6, 500, 168]),
)
def test_no_host_is_over_its_target_at_any_sample(
    seed: int, count: int, utilization: float, growth: float, most: int
) -> None:
    """Whatever the slots are, and with gaps in the samples."""
    moments = 800
    model = Model(Overhead(utilization=utilization, guest=0.01), growth=growth)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as scratch:
        patch.setattr(reduction, "_MAX_SAMPLES", 0)
        patch.setattr(reduction, "_MAX_SLOTS", most * count)
        machines = random_machines(count, moments, seed)
        folder = write_data(Path(scratch) / "data", machines, moments=moments, step=1800)
        packed, loads = packed_and_verified(folder, model, Window(0, moments))
    assert not loads.over_target().any()
    assert loads.peaks().max() <= 1 + TOLERANCE
    assert lower_bound(packed, Constraints()).hosts <= len(packed.hosts)
    assert sorted(m for one in packed.hosts for m in one.machines) == list(range(count))


def test_a_unit_changes_nothing(tmp_path: Path, machines: list[Machine]) -> None:
    """Hosts whose cores are half as fast, in cores that are half as large."""
    found = []
    for factor in (1.0, 0.5):
        scaled = [
            replace(
                one,
                values={**one.values, "cpu_cores": factor * np.asarray(one.values["cpu_cores"])},
            )
            for one in machines
        ]
        host = replace(HOST, rating=factor)
        folder = write_data(tmp_path / str(factor), scaled, moments=MOMENTS)
        profile = profile_of(folder)
        packer = Packer(first_fit, FREE, 1, lambda: False)
        case = Case("this plan", Model(Overhead()), (host,), SITE)
        packed = packer.packed(case, profile, 1)
        (loads,) = verify(folder, [packed.assignment(WHOLE, detailed=True)])
        utilization = loads.utilization()
        found.append(
            (
                [one.machines for one in packed.hosts],
                lower_bound(packed, Constraints()),
                loads.peaks().round(4).tolist(),
                loads.watts(utilization).round(2).tolist(),
            )
        )
    assert found[0] == found[1]
