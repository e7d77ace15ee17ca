"""Points of a consolidation with real guests, and what may go wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CommandError, GuestEnded, ProvisionError, WorkloadError
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.qemu import QemuHypervisor
from suites.consolidation import accounting
from suites.consolidation.generator import FOLDER, Window
from suites.consolidation.target import Schedule
from suites.consolidation.test_knee import blocker
from tests.conftest import EmulatedHosts
from tests.real.conftest import PHASES, MakeExperiment
from tests.waiting import wait_until

IDLE = {"server": "idle", "memory": 112, "rate": 10, "percentile": 90, "limit": 1}

# A busy machine makes a point invalid, as it should: run these with nothing else.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def qemu(emulated_hosts: EmulatedHosts, emulated_host: Any) -> QemuHypervisor:
    def make() -> QemuHypervisor:
        return QemuHypervisor(emulated_host, lambda text: None)

    return emulated_hosts.keep("consolidated qemu", make, QemuHypervisor.close)


def test_reference_and_a_second_tile(experiment: MakeExperiment, tmp_path: Path) -> None:
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


def test_cost_is_that_of_the_window(
    experiment: MakeExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    experiment: MakeExperiment, qemu: QemuHypervisor
) -> None:
    one = experiment({"idle": IDLE}, qemu)
    assert one.deployment.method == "boot"
    assert one.measure_reference(1) == ""
    assert one.points[0].loaded.demand > 0
    assert one.points[0].loaded.exits["exits"] > 0


def test_guest_that_dies_under_load_fails_the_point_and_spares_the_others(
    experiment: MakeExperiment,
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


def test_rate_beyond_a_tile_alone_is_no_reference(experiment: MakeExperiment) -> None:
    # no job ends before the load does
    batch = {**IDLE, "server": "batch", "rate": 4, "limit": 0.5, "work": 1_000_000}
    one = experiment({"batch": batch})
    problem = one.measure_reference(1)
    assert "batch in reference run 1: " in problem
    assert "requests without a good answer" in problem


def test_memory_is_named_as_the_limit_before_anything_is_deployed(
    experiment: MakeExperiment,
) -> None:
    one = experiment({"idle": {**IDLE, "memory": 65536}})
    assert blocker(one, 1, 9).startswith(
        "memory: about 65536 MiB more would be needed for tile 1; "
    )
    assert blocker(one, 10, 9) == "the search ends at 9 tiles"


def running(host: Host) -> list[str]:
    """The load generator's programs that run on a host."""
    names = host.run(["ps", "-e", "-o", "comm="]).stdout.split()
    return sorted(name for name in names if name in ("hv-load", "pgbench"))


# the limit of a database is also the time that pgbench has to connect on a busy machine
LOADED = {"idle": IDLE, "oltp": {**IDLE, "server": "oltp", "memory": 192, "limit": 20}}
FULL = r"No space left|I/O error|pgbench logged \d+ of \d+ transactions"


def test_killed_load_generator_is_an_error_and_the_next_load_runs(
    experiment: MakeExperiment, emulated_host: Host
) -> None:
    one = experiment(LOADED)
    one.deployment.grow_to(1)
    generator = one.generator.guest

    def kill(window: Window) -> None:
        assert wait_until(lambda: running(emulated_host) == ["hv-load", "hv-load", "pgbench"])
        generator.ssh.run(f"kill -s KILL $(cat {FOLDER}/hv-load.pid)")

    with pytest.raises(WorkloadError, match="the load generator failed: it was killed") as caught:
        one.load(kill)
    assert "shortage of memory" in caught.value.hint
    assert (caught.value.stage, caught.value.guest) == ("run", generator.name)
    assert wait_until(lambda: not running(emulated_host))
    assert one.points == []
    assert one.load().requests["good"].any()


def test_killed_container_of_the_load_generator_is_an_error(
    experiment: MakeExperiment, emulated_host: Host
) -> None:
    one = experiment(LOADED)
    one.deployment.grow_to(1)
    generator = one.generator.guest

    def kill(window: Window) -> None:
        with generator.expect_end():
            emulated_host.run(["kill", "-s", "KILL", str(generator.facts["pid"])])

    with pytest.raises(WorkloadError, match="the load generator failed: ") as caught:
        one.load(kill)
    assert "look at the generator's console" in caught.value.hint
    assert wait_until(lambda: not running(emulated_host))
    assert emulated_host.run(["test", "-e", generator.facts["cgroup"]], check=False).status == 1
    assert not one.deployment.ends


@pytest.mark.parametrize("when", ["before the load", "in its window"])
def test_full_disk_of_the_load_generator_is_an_error(
    experiment: MakeExperiment, emulated_host: Host, when: str
) -> None:
    one = experiment(LOADED)
    one.deployment.grow_to(1)
    # a small disk, since the container's memory would be full before its /tmp
    shell = one.generator.guest.ssh.run
    shell("mount -t tmpfs -o size=1m,mode=1777 none /tmp")
    fill = "cat /dev/zero >/tmp/fill"

    def fill_disk() -> None:
        assert "No space left" in shell(fill, check=False).stderr

    if when == "before the load":
        fill_disk()
    with pytest.raises(WorkloadError, match=FULL) as caught:
        one.load(lambda window: fill_disk())
    assert "full" in caught.value.hint
    assert caught.value.guest == one.generator.guest.name
    assert wait_until(lambda: not running(emulated_host))
    shell("rm /tmp/fill")
    assert one.load().requests["good"].any()


@pytest.fixture
def killer(emulated_host: Host) -> Callable[[Guest], None]:
    """Kills a guest."""

    def kill(guest: Guest) -> None:
        guest.end_expected = True
        emulated_host.run(["kill", "-s", "KILL", str(guest.facts["pid"])])

    return kill


def test_guest_that_dies_while_it_is_deployed_fails_its_number(
    experiment: MakeExperiment,
    killer: Callable[[Guest], None],
    emulated_host: Host,
    capsys: pytest.CaptureFixture[str],
) -> None:
    victims = ["idle-1", "idle-2"]

    def kill_victims(guest: Guest) -> None:
        if guest.name.endswith(tuple(victims)):
            killer(guest)

    one = experiment({"idle": IDLE}, on_create=kill_victims)
    one.limits = {"idle": 1}
    with pytest.raises(GuestEnded) as caught:  # one tile alone
        one.measure(1)
    assert caught.value.hint
    victims.remove("idle-1")
    assert one.measure(2) == "fail"
    assert "2 tiles: fail (a guest was not deployed: " in capsys.readouterr().out
    assert one.deployment.members == []
    assert one.points == []
    assert one.measure(1) == "pass"


def test_too_little_memory_for_a_guest_is_an_error_of_its_deployment(
    experiment: MakeExperiment,
) -> None:
    oltp = {"server": "oltp", "memory": 64, "rate": 1, "percentile": 90, "limit": 1}
    one = experiment({"oltp": oltp})
    with pytest.raises((CommandError, ProvisionError)) as caught:
        one.measure(1)
    assert caught.value.hint
    assert one.points == []
