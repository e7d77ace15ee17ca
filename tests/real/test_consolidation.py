"""Points of a consolidation with real guests, and what may go wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CommandError, ProvisionError
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.kvm import KvmHypervisor
from harness.hypervisors.qemu import QemuHypervisor
from images.image import GuestImage
from suites.consolidation import accounting
from suites.consolidation.deployment import Deployment, split_cpus
from suites.consolidation.experiment import Experiment, Phases
from suites.consolidation.generator import LoadGenerator, Window
from suites.consolidation.target import Schedule
from suites.consolidation.test_knee import blocker
from suites.consolidation.tile import Tile, load_tile
from tests.conftest import EmulatedHosts
from tests.real.conftest import factory, kvm_pids

PHASES = Phases(settle=0, idle=0.5, warm_up=False, schedule=Schedule(ramp=0.5, measure=4, drain=2))
IDLE = {"server": "idle", "memory": 112, "rate": 10, "percentile": 90, "limit": 1}

Make = Callable[..., Experiment]

# A busy machine makes a point invalid, as it should: run these with nothing else.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def qemu(emulated_hosts: EmulatedHosts, emulated_host: Any) -> QemuHypervisor:
    def make() -> QemuHypervisor:
        return QemuHypervisor(emulated_host, lambda text: None)

    return emulated_hosts.keep("consolidated qemu", make, QemuHypervisor.close)


@pytest.fixture
def experiment(
    kvm: KvmHypervisor,
    image: GuestImage,
    workload_image: GuestImage,
    emulated_host: Host,
    tmp_path: Path,
) -> Iterator[Make]:
    """`experiment({"name": {...}})`: with a tile of these guests. It leaves no guest behind."""
    before = kvm_pids(emulated_host)
    created: list[Guest] = []
    guest_cpus, generator_cpus = split_cpus(emulated_host.facts)

    def tile(guests: dict[str, dict[str, Any]]) -> Tile:
        path = tmp_path / "tile.toml"
        lines = ['name = "own"', "version = 1"]
        for name, values in guests.items():
            lines += [f"[guest.{name}]", *(f"{key} = {value!r}" for key, value in values.items())]
        path.write_text("\n".join(lines).replace("'", '"'))
        return load_tile(path, "emulated")

    with ExitStack() as stack:
        stack.callback(stop_all, created)

        def make(guests: dict[str, dict[str, Any]], hypervisor: Any = kvm) -> Experiment:
            own = factory(hypervisor, image, created.append)
            generator = stack.enter_context(LoadGenerator(own, workload_image, generator_cpus))
            deployment = Deployment(own, workload_image, tile(guests), guest_cpus, None)
            stack.callback(deployment.close)
            return Experiment(deployment, generator, PHASES, 1, print, tmp_path / "histograms")

        yield make
    assert kvm_pids(emulated_host) == before


def stop_all(guests: list[Guest]) -> None:
    for guest in guests:
        guest.stop()


def test_reference_and_a_second_tile(experiment: Make, tmp_path: Path) -> None:
    one = experiment({"idle": IDLE})
    assert one.measure_reference(2) == ""
    assert one.limits == {"idle": 1}
    assert one.measure(2) == "pass"
    point = one.points[-1]
    assert (point.tiles, point.guests, point.score) == (2, 2, 2)
    cost = point.loaded
    assert cost.unread == 0
    assert 0 < cost.demand <= sum(cost.guest_cpu.values()) * 1.05
    assert sum(cost.guest_cpu.values()) <= cost.busy + 0.1
    assert cost.busy_share < 1
    assert 0 < cost.generator_cpu < cost.seconds
    assert cost.exits["exits"] > sum(result.good for result in point.results)
    for index in range(2):
        assert cost.mapped[index]["private"] > 1
        assert cost.mapped[index]["shared"] > 1
    logs = sorted(path.name for path in (tmp_path / "histograms").iterdir())
    assert logs == ["000-1-tiles.hlog", "001-1-tiles.hlog", "002-2-tiles.hlog"]


def test_cost_is_that_of_the_window(experiment: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its readings begin at the moments of hv-load's clock."""
    one = experiment({"idle": IDLE})
    one.phases = replace(PHASES, schedule=Schedule(ramp=4, measure=4, drain=2))
    one.deployment.grow_to(1)
    readings: list[accounting.Reading] = []
    windows: list[Window] = []

    def read(*arguments: Any, **options: Any) -> accounting.Reading:
        readings.append(accounting_read(*arguments, **options))
        return readings[-1]

    def during(window: Window) -> None:
        windows.append(window)
        one.cost_in(window)

    accounting_read = accounting.read
    monkeypatch.setattr(accounting, "read", read)
    one.load(during)
    (window,), (first, last) = windows, readings
    assert first.time - window.start == pytest.approx(0, abs=0.1)
    assert last.time - window.end == pytest.approx(0, abs=0.1)


def test_hypervisor_that_cannot_clone_boots_each_guest(
    experiment: Make, qemu: QemuHypervisor
) -> None:
    one = experiment({"idle": IDLE}, qemu)
    assert one.deployment.method == "boot"
    assert one.measure_reference(1) == ""
    assert one.points[0].loaded.demand > 0
    assert one.points[0].loaded.exits["exits"] > 0


def test_guest_that_dies_under_load_fails_the_point_and_spares_the_others(
    experiment: Make,
) -> None:
    one = experiment({"idle": IDLE})
    one.limits = {"idle": 1}
    one.deployment.grow_to(2)
    first = one.deployment.members[0].guest
    first.ssh.popen(["sh", "-c", "sleep 2; hv-end panic"])
    assert one.measure(2) == "fail"
    reasons = one.points[0].verdict.reasons
    assert len(reasons) == 1
    assert reasons[0].startswith("idle of tile 0: ended: panic")
    survivor = one.points[0].results[1]
    assert survivor.good == survivor.scheduled > 0
    assert one.measure(2) == "pass"  # with new guests


def test_rate_beyond_a_tile_alone_is_no_reference(experiment: Make) -> None:
    # no job ends before the load does
    batch = {**IDLE, "server": "batch", "rate": 4, "limit": 0.5, "work": 1_000_000}
    one = experiment({"batch": batch})
    problem = one.measure_reference(1)
    assert "batch in reference run 1: " in problem
    assert "requests without a good answer" in problem


def test_memory_is_named_as_the_limit_before_anything_is_deployed(experiment: Make) -> None:
    one = experiment({"idle": {**IDLE, "memory": 65536}})
    assert blocker(one, 1, 9).startswith(
        "memory: about 65536 MiB more would be needed for tile 1; "
    )
    assert blocker(one, 10, 9) == "the search ends at 9 tiles"


def test_too_little_memory_for_a_guest_is_an_error_of_its_deployment(experiment: Make) -> None:
    oltp = {"server": "oltp", "memory": 64, "rate": 1, "percentile": 90, "limit": 1}
    one = experiment({"oltp": oltp})
    with pytest.raises((CommandError, ProvisionError)) as caught:
        one.measure(1)
    assert caught.value.hint
    assert one.points == []
