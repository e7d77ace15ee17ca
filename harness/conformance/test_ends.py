"""How guests end, and that nothing of them stays on the host."""

from __future__ import annotations

import contextlib

import pytest

from harness.errors import SSHError
from harness.guest.guest import Guest
from harness.hosts.base import Host

pytestmark = pytest.mark.guest(vcpus=1, memory=128)
TIMEOUT = 30.0  # seconds
# The command in the guest, and the reasons of its end. By its command line the kernel restarts by
# a triple fault, which some VMMs distinguish from a reset.
ENDS = {
    "poweroff": ("poweroff", {"power-off"}),
    "restart": ("echo b >/proc/sysrq-trigger", {"reset", "triple-fault"}),
    "panic": ("echo c >/proc/sysrq-trigger", {"panic"}),
}


def remaining_paths(host: Host, guest: Guest) -> list[str]:
    """The paths of an ended guest that still exist on the host."""
    paths = [f"/proc/{guest.facts['pid']}", guest.facts.get("cgroup")]
    return [
        path for path in paths if path and host.run(["test", "-e", path], check=False).status == 0
    ]


@pytest.mark.requires_vm
@pytest.mark.parametrize("name", ENDS)
def test_the_guest_ends(guest: Guest, virt_host: Host, name: str) -> None:
    """The hypervisor tells a reset and a panic from a power-off."""
    command, reasons = ENDS[name]
    with guest.expect_end(timeout=TIMEOUT) as expected, contextlib.suppress(SSHError):
        guest.ssh.run(f"{command}; sleep {TIMEOUT:g}", check=False)
    assert expected.end.reason in reasons
    assert expected.end.time_ns > guest.timeline.marks["ready"]
    if name == "panic":
        assert "sysrq triggered crash" in expected.end.detail
    guest.stop()
    assert remaining_paths(virt_host, guest) == []


def test_the_vmm_is_killed(guest: Guest, virt_host: Host) -> None:
    with guest.expect_end("killed", timeout=TIMEOUT):
        virt_host.run(["kill", "-s", "KILL", str(guest.facts["pid"])])
    guest.stop()
    assert remaining_paths(virt_host, guest) == []


def test_the_test_stops_it(guest: Guest, virt_host: Host) -> None:
    guest.stop()
    assert guest.end is not None
    assert guest.end.reason == "stopped"
    guest.machine.stop()  # idempotent
    assert remaining_paths(virt_host, guest) == []
