"""The overhead and the target utilization that a consolidation run measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.errors import PlanError
from harness.planner.overhead import assumed_overhead, measured_overhead
from harness.results import RunWriter
from tests.results.synthetic import Synthetic, facts

RUN = "20260401T020000Z-0000aa"
KNEE = {
    "knee.utilization": 58.0,
    "fit.base": 0.1,
    "fit.guest": 0.004,
    "fit.demand": 1.08,
}


def write_run(
    store: Path,
    metrics: Mapping[str, float],
    *,
    hypervisors: tuple[str, ...] = ("kvm",),
    emulated: bool = False,
    memory: bool = False,
) -> None:
    writer = RunWriter(store, facts(emulated=emulated), run=RUN)
    for hypervisor in hypervisors:
        make = Synthetic(RUN, hypervisor=hypervisor)
        for metric, value in metrics.items():
            writer.add(make.sample(f"consolidation.{metric}", value, "", "none"))
        if memory:
            about = {"guest": "web", "load": "full"}
            for kind, mib in (("", 140), (".private", 100), (".shared", 25), (".merged", 5)):
                name = f"consolidation.memory{kind}"
                writer.add(make.sample(name, mib, "MiB", "none", parameters=about))
    writer.close()


def test_a_run_gives_overhead_and_utilization(tmp_path: Path) -> None:
    write_run(tmp_path, KNEE, memory=True)
    overhead = measured_overhead(tmp_path, "latest", None)
    assert (overhead.base, overhead.guest, overhead.demand) == (0.1, 0.004, 1.08)
    assert overhead.utilization == pytest.approx(0.58)
    assert overhead.memory_mib == pytest.approx(64 + 10)  # 10 MiB that no process has mapped
    assert overhead.banners == ()
    sources = {row.name: row.source for row in overhead.assumptions}
    assert sources["target utilization of CPUs"] == f"run {RUN}: busy at the knee"
    assert sources["CPU of the hypervisor"] == f"run {RUN}: fit"
    assert sources["the kernel's memory for a machine"] == f"run {RUN}"


def test_without_a_run_the_utilization_is_assumed_and_says_so() -> None:
    overhead = assumed_overhead()
    assert (overhead.utilization, overhead.demand, overhead.guest) == (0.7, 1.0, 0.0)
    assert {row.source for row in overhead.assumptions} == {"assumed"}
    assert "assumed" in overhead.banners[0]
    given = overhead.with_utilization(0.5, "given")
    assert given.banners == ()
    assert [row.value for row in given.assumptions if row.source == "given"] == ["50%"]


def test_a_run_without_a_fit_has_the_measured_utilization_alone(tmp_path: Path) -> None:
    write_run(tmp_path, {"knee.utilization": 58.0, "knee": 3})
    overhead = measured_overhead(tmp_path, "latest", None)
    assert overhead.utilization == pytest.approx(0.58)
    assert (overhead.base, overhead.demand) == (0.0, 1.0)
    sources = {row.name: row.source for row in overhead.assumptions}
    assert sources["CPU of the hypervisor"] == "assumed"


def test_an_emulated_run_sizes_no_hardware(tmp_path: Path) -> None:
    write_run(tmp_path, KNEE, emulated=True)
    with pytest.raises(PlanError, match="says nothing about hardware") as raised:
        measured_overhead(tmp_path, "latest", None)
    assert "--force" in raised.value.hint
    forced = measured_overhead(tmp_path, "latest", None, force=True)
    assert "Do not buy hardware by this plan." in forced.banners[0]


def test_one_of_several_hypervisors_must_be_named(tmp_path: Path) -> None:
    write_run(tmp_path, KNEE, hypervisors=("kvm", "qemu", "native"))
    with pytest.raises(PlanError, match="2 hypervisors: kvm, qemu") as raised:
        measured_overhead(tmp_path, "latest", None)
    assert raised.value.hint == "name one of them with --hypervisor"
    assert measured_overhead(tmp_path, "latest", "qemu").utilization == pytest.approx(0.58)
    with pytest.raises(PlanError, match="no knee of the hypervisor 'xen'") as raised:
        measured_overhead(tmp_path, "latest", "xen")
    assert "kvm, qemu" in raised.value.hint


@pytest.mark.parametrize(
    ("metrics", "cause"),
    [({"point": 1.0}, "measured no knee"), ({"knee.utilization": 130.0}, "a utilization of 130 %")],
)
def test_a_run_without_a_usable_knee_is_refused(
    tmp_path: Path, metrics: dict[str, float], cause: str
) -> None:
    write_run(tmp_path, metrics)
    with pytest.raises(PlanError, match=cause) as raised:
        measured_overhead(tmp_path, "latest", None)
    assert raised.value.hint


def test_a_selector_of_several_runs_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, KNEE)
    writer = RunWriter(tmp_path, facts(), run="20260401T030000Z-0000ab")
    writer.add(Synthetic("20260401T030000Z-0000ab").sample("a", 1, "s", "lower"))
    writer.close()
    with pytest.raises(PlanError, match="matches 2 runs"):
        measured_overhead(tmp_path, "2026-04-01", None)
