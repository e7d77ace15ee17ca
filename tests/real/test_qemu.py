"""A guest of QEMU's: its monitor, its exits, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.machines import QmpMachine, SupervisedMachine
from harness.hypervisors.qemu import Q35Hypervisor, QemuHypervisor
from images.image import GuestImage
from tests.conftest import EmulatedHosts
from tests.real.conftest import factory

CPUIDS = 2000

Make = Callable[..., Guest]


@pytest.fixture(scope="module", params=[QemuHypervisor, Q35Hypervisor], ids=["microvm", "q35"])
def make(
    emulated_hosts: EmulatedHosts,
    emulated_host: Host,
    image: GuestImage,
    request: pytest.FixtureRequest,
) -> Iterator[Make]:
    """Makes a guest."""
    qemu = request.param(emulated_host, lambda text: None)
    yield factory(qemu, image, lambda made: None)
    qemu.close()


def test_what_can_be_asked_of_a_running_one(make: Make, emulated_host: Host) -> None:
    guest = make("peer")
    maps = emulated_host.run(["cat", f"/proc/{guest.facts['pid']}/maps"]).stdout
    assert "memfd:guest" in maps, "its memory is where ours is"
    assert isinstance(guest.machine, QmpMachine)
    assert guest.machine.monitor.execute("query-status")["status"] == "running"
    before = guest.statistics()
    guest.ssh.run(["hv-exits", "cpuid", "--ops", str(CPUIDS), "--batches", "1"])
    after = guest.statistics()
    # its warm-up, and what starting it costs
    assert CPUIDS <= after["exits"] - before["exits"] < 4 * CPUIDS
    assert after["cpu_ns"] > before["cpu_ns"]
    with guest.expect_end("stopped", timeout=10):
        guest.machine.stop()


def test_who_is_asked_often_is_not_busier_for_it(make: Make) -> None:
    """What QEMU takes to tell its statistics is not counted."""
    guest = make("asked")
    machine = guest.machine
    assert isinstance(machine, QmpMachine)

    def all_of_it(asked: SupervisedMachine = machine) -> int:
        return SupervisedMachine.statistics(asked)["cgroup_cpu_usec"]

    first, start = all_of_it(), guest.statistics()["cgroup_cpu_usec"]
    for _ in range(5):
        end = guest.statistics()["cgroup_cpu_usec"]
    assert 0 <= end - start < (all_of_it() - first) / 2
    # but what the guest does between two readings is
    guest.ssh.run("timeout 1 sh -c 'while :; do :; done'", check=False)
    assert guest.statistics()["cgroup_cpu_usec"] - end > 500_000
    guest.stop()


@pytest.mark.parametrize(("how", "reason"), [("o", "power-off"), ("b", "reset")])
def test_how_it_ends(make: Make, how: str, reason: str) -> None:
    guest = make("peer")
    with guest.expect_end(reason, timeout=30) as gone:
        guest.ssh.run(["sh", "-c", f"echo {how} > /proc/sysrq-trigger"], check=False)
    assert ("triple fault" in gone.end.detail) == (reason == "reset")
    guest.stop()
