"""The ends of guests: their reasons, and what remains on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.errors import GuestEnded, HarnessError
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.kvm import KvmHypervisor
from images.image import GuestImage
from tests.real.conftest import factory, kvm_pids

CGROUPS = "/sys/fs/cgroup/pytest-hypervisor"
END_COMMANDS = {
    # only the text of a panic
    "power-off": "echo 'Kernel panic - not syncing: no' >/dev/console; hv-end power-off",
    "reset": "hv-end reset",
    "triple-fault": "hv-end triple-fault",
    "panic": "hv-end panic",
}


@pytest.fixture(scope="module")
def ending_guests(kvm: KvmHypervisor, image: GuestImage) -> Iterator[dict[str, Guest]]:
    """A guest for each reason. They boot at the same time."""
    make = factory(kvm, image, lambda guest: None)
    guests = {reason: make.launch(reason) for reason in END_COMMANDS}
    for guest in guests.values():
        guest.wait_ready()
    yield guests
    for guest in guests.values():
        guest.stop()


@pytest.mark.parametrize("reason", END_COMMANDS)
def test_end_has_its_reason(
    ending_guests: dict[str, Guest], emulated_host: Host, reason: str
) -> None:
    guest = ending_guests[reason]
    with guest.expect_end(reason, timeout=10.0) as gone:
        guest.ssh.run(f"{END_COMMANDS[reason]}; sleep 20")
    assert gone.end.reason == reason
    assert gone.end.time_ns > guest.timeline.marks["ready"]
    assert ("sysrq triggered crash" in gone.end.detail) == (reason == "panic")
    with pytest.raises(GuestEnded, match=reason):
        guest.ssh.run(["true"])
    guest.stop()
    assert guest.facts["pid"] not in kvm_pids(emulated_host)
    assert not exists(emulated_host, guest.facts["cgroup"])


def test_power_off_by_init(guests: GuestFactory) -> None:
    guest = guests("orderly")
    with guest.expect_end("power-off", timeout=10.0):
        guest.ssh.run("poweroff; sleep 20")


def exists(host: Host, path: str) -> bool:
    return host.run(["test", "-e", path], check=False).status == 0


# Ways to end an agent while its guests run.


def closed_pipe(hypervisor: KvmHypervisor) -> None:
    hypervisor.agent._process.close_stdin()


def sigterm(hypervisor: KvmHypervisor) -> None:
    hypervisor.host.run(["kill", "-s", "TERM", str(hypervisor.agent.pid)])


def sigint(hypervisor: KvmHypervisor) -> None:
    hypervisor.host.run(["kill", "-s", "INT", str(hypervisor.agent.pid)])


@pytest.mark.parametrize("way", [closed_pipe, sigterm, sigint])
def test_guests_end_with_their_agent(
    emulated_host: Host, image: GuestImage, way: Callable[[KvmHypervisor], None]
) -> None:
    hypervisor = KvmHypervisor(emulated_host, lambda text: None)
    guest = factory(hypervisor, image, lambda guest: None).launch()
    pid, cgroup = int(guest.facts["pid"]), str(guest.facts["cgroup"])
    assert pid in kvm_pids(emulated_host)
    assert cgroup.startswith(f"{CGROUPS}/{hypervisor.agent.pid}-")
    way(hypervisor)
    assert guest.ended.wait(10.0)
    assert guest.end is not None
    assert guest.end.reason == "lost"
    hypervisor.close()
    assert pid not in kvm_pids(emulated_host)
    assert not exists(emulated_host, f"/proc/{hypervisor.agent.pid}")
    assert not exists(emulated_host, cgroup.rpartition("/")[0])


def test_killed_agent_ends_its_guests(emulated_host: Host, image: GuestImage) -> None:
    hypervisor = KvmHypervisor(emulated_host, lambda text: None)
    guest = factory(hypervisor, image, lambda guest: None)("lost")
    pid, cgroup = int(guest.facts["pid"]), str(guest.facts["cgroup"])
    with ThreadPoolExecutor() as pool:
        command = pool.submit(guest.ssh.run, ["sleep", "20"])
        emulated_host.run(["kill", "-s", "KILL", str(hypervisor.agent.pid)])
        with pytest.raises(GuestEnded, match="lost: the host's agent is gone") as caught:
            command.result(10.0)
    assert caught.value.guest == guest.name
    assert caught.value.console
    assert pid not in kvm_pids(emulated_host)
    with pytest.raises(HarnessError, match="is gone"):
        factory(hypervisor, image, lambda guest: None)()
    guest.stop()
    hypervisor.close()
    # the killed agent cannot remove the cgroup; the next agent does
    assert exists(emulated_host, cgroup)
    following = KvmHypervisor(emulated_host, lambda text: None)
    assert not exists(emulated_host, cgroup.rpartition("/")[0])
    following.close()


def test_stopped_vmm_process_can_be_killed(guests: GuestFactory, emulated_host: Host) -> None:
    guest = guests.launch()
    emulated_host.run(["kill", "-s", "STOP", str(guest.facts["pid"])])
    guest.machine.stop(0.5)
    assert guest.ended.wait(1.0)
    assert guest.facts["pid"] not in kvm_pids(emulated_host)
