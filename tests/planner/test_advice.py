"""Which machines look idle or oversized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.planner.advice import advise
from harness.planner.plan import MachineAdvice
from tests.planner.data_folders import Machine, write_data
from tests.planner.test_reduction import reduced

MOMENTS = 288


def advice(tmp_path: Path, values: dict[str, Any], **about: Any) -> tuple[MachineAdvice, ...]:
    arrays = {name: np.broadcast_to(value, MOMENTS) for name, value in values.items()}
    machine = Machine("vm", arrays, about={"vcpus": 8.0, "memory_mib": 16_384.0, **about})
    return advise(reduced(write_data(tmp_path / "data", [machine], moments=MOMENTS)))


def blip(level: float, peak: float) -> np.ndarray:
    values = np.full(MOMENTS, level)
    values[100] = peak
    return values


def test_a_machine_that_does_nothing_is_comatose(tmp_path: Path) -> None:
    (one,) = advice(tmp_path, {"cpu_cores": blip(0.02, 0.5), "memory_mib": 900.0})
    assert (one.kind, one.vcpus, one.memory_mib) == ("comatose", 8, 16_384)
    assert one.cpu_peak == pytest.approx(0.5)


@pytest.mark.parametrize(
    "busy",
    [
        {"cpu_cores": 0.2},
        {"cpu_cores": blip(0.02, 3.0)},
        {"cpu_cores": 0.02, "read_iops": 50.0},
        {"cpu_cores": 0.02, "net_mib_s": 1.0},
    ],
)
def test_one_sign_of_work_is_enough(tmp_path: Path, busy: dict[str, Any]) -> None:
    found = advice(tmp_path, {"memory_mib": 12_000.0, **busy})
    assert [one.kind for one in found] in ([], ["oversized"])


def test_a_machine_with_twice_what_it_needs_is_oversized(tmp_path: Path) -> None:
    (one,) = advice(tmp_path, {"cpu_cores": blip(0.5, 2.5), "memory_mib": 3000.0})
    assert (one.kind, one.suggestion) == ("oversized", "4 vCPUs and 4 GiB would do")


def test_a_machine_that_needs_its_size_is_not_listed(tmp_path: Path) -> None:
    assert advice(tmp_path, {"cpu_cores": blip(0.5, 4.0), "memory_mib": 9000.0}) == ()


def test_memory_alone_may_be_oversized_and_unknown_memory_not(tmp_path: Path) -> None:
    (one,) = advice(tmp_path / "a", {"cpu_cores": blip(0.5, 7.0), "memory_mib": 100.0})
    assert one.suggestion == "0.5 GiB would do"
    assert advice(tmp_path / "b", {"cpu_cores": blip(0.5, 7.0)}) == ()


def test_machines_without_trace_get_no_advice(tmp_path: Path) -> None:
    machines = [Machine("vm", {"cpu_cores": [3.0], "memory_mib": [4000.0]}), Machine("new")]
    assert advise(reduced(write_data(tmp_path / "data", machines, moments=1))) == ()


def test_shares_are_of_the_own_cores_of_a_slow_host(tmp_path: Path) -> None:
    """A rating changes what a core is worth, not how much of its vCPUs a machine uses."""
    (one,) = advice(tmp_path, {"cpu_cores": blip(0.5, 2.5), "memory_mib": 15_000.0})
    assert one.cpu_peak == pytest.approx(2.5)
    assert one.suggestion == "4 vCPUs would do"
