"""Guests of QEMU: monitor, exits and ends."""

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
    """Creates a guest."""
    qemu = request.param(emulated_host, lambda text: None)
    yield factory(qemu, image, lambda guest: None)
    qemu.close()


def test_running_guest_has_memory_file_monitor_and_statistics(
    make: Make, emulated_host: Host
) -> None:
    guest = make("peer")
    maps = emulated_host.run(["cat", f"/proc/{guest.facts['pid']}/maps"]).stdout
    assert "memfd:guest" in maps, "its memory is in a file of the agent"
    assert isinstance(guest.machine, QmpMachine)
    assert guest.machine.monitor.execute("query-status")["status"] == "running"
    before = guest.statistics()
    guest.ssh.run(["hv-exits", "cpuid", "--ops", str(CPUIDS), "--batches", "1"])
    after = guest.statistics()
    # includes warm-up and the start of the program
    assert CPUIDS <= after["exits"] - before["exits"] < 4 * CPUIDS
    assert after["cpu_ns"] > before["cpu_ns"]
    with guest.expect_end("stopped", timeout=10):
        guest.machine.stop()


def test_statistics_exclude_the_cost_of_queries(make: Make) -> None:
    """The CPU time that QEMU spends on statistics is not counted."""
    guest = make("queried")
    machine = guest.machine
    assert isinstance(machine, QmpMachine)

    def total(queried: SupervisedMachine = machine) -> int:
        return SupervisedMachine.statistics(queried)["cgroup_cpu_usec"]

    first, start = total(), guest.statistics()["cgroup_cpu_usec"]
    for _ in range(5):
        end = guest.statistics()["cgroup_cpu_usec"]
    assert 0 <= end - start < (total() - first) / 2
    # the work of the guest between two readings is counted
    guest.ssh.run("timeout 1 sh -c 'while :; do :; done'", check=False)
    assert guest.statistics()["cgroup_cpu_usec"] - end > 500_000
    guest.stop()


@pytest.mark.parametrize(("trigger", "reason"), [("o", "power-off"), ("b", "reset")])
def test_end_has_its_reason(make: Make, trigger: str, reason: str) -> None:
    guest = make("peer")
    with guest.expect_end(reason, timeout=30) as gone:
        guest.ssh.run(["sh", "-c", f"echo {trigger} > /proc/sysrq-trigger"], check=False)
    assert ("triple fault" in gone.end.detail) == (reason == "reset")
    guest.stop()
