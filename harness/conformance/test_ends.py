"""How guests end, and that nothing of them stays on the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host

PATIENCE = 30.0  # seconds
MEMORY = 128  # MiB: these guests run at the same time
# By End.reason, the command in the guest that leads to it.
COMMANDS = {
    "power-off": "poweroff; sleep 60",
    "reset": "hv-end reset; sleep 60",
    "panic": "echo c >/proc/sysrq-trigger",
}
OTHERS = ("killed", "stopped")


@pytest.fixture(scope="module")
def guests(guest_factory: GuestFactory) -> Iterator[dict[str, Guest]]:
    """A guest for each end. They boot at the same time."""
    with ExitStack() as stack:
        guests: dict[str, Guest] = {}
        for reason in (*COMMANDS, *OTHERS):
            guests[reason] = guest_factory.launch(reason, vcpus=1, memory=MEMORY)
            stack.callback(guests[reason].stop)
        for guest in guests.values():
            guest.wait_ready()
        yield guests


def remains(host: Host, guest: Guest) -> list[str]:
    """What is left on the host of a guest that has ended."""
    paths = [f"/proc/{guest.facts['pid']}", guest.facts.get("cgroup")]
    exists = [path for path in paths if path]
    return [path for path in exists if host.run(["test", "-e", path], check=False).status == 0]


@pytest.mark.requires_vm
@pytest.mark.parametrize("reason", COMMANDS)
def test_an_end_of_the_guests_own(guests: dict[str, Guest], virt_host: Host, reason: str) -> None:
    """The hypervisor tells a reset and a panic from a power-off."""
    guest = guests[reason]
    with guest.expect_end(reason, timeout=PATIENCE) as gone:
        guest.ssh.run(COMMANDS[reason], check=False)
    assert gone.end.time_ns > guest.timeline.marks["ready"]
    if reason == "panic":
        assert "sysrq triggered crash" in gone.end.detail
    guest.stop()
    assert remains(virt_host, guest) == []


def test_a_killed_vmm(guests: dict[str, Guest], virt_host: Host) -> None:
    guest = guests["killed"]
    with guest.expect_end("killed", timeout=PATIENCE):
        virt_host.run(["kill", "-s", "KILL", str(guest.facts["pid"])])
    guest.stop()
    assert remains(virt_host, guest) == []


def test_stop_ends_it_at_once(guests: dict[str, Guest], virt_host: Host) -> None:
    guest = guests["stopped"]
    guest.stop()
    assert guest.end is not None
    assert guest.end.reason == "stopped"
    guest.machine.stop()  # idempotent
    assert remains(virt_host, guest) == []
