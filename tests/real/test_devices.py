"""The small devices work with a stock kernel's drivers, and cause no user-space exit."""

from __future__ import annotations

import re
import time

import pytest

from harness.errors import HarnessError
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.supervised import SupervisedHypervisor
from tests.waiting import wait_until

PATIENCE = 30.0
LINES = 50
MIB = 1 << 20


@pytest.fixture
def idle_guest(real_guest: Guest) -> Guest:
    """The guest after its boot is complete and it causes no exits."""
    wait_idle(real_guest)
    return real_guest


def wait_idle(guest: Guest) -> None:
    """Wait until late modules are loaded and the link is up, which cause exits."""
    assert wait_until(lambda: "virtio_console" in modules(guest), PATIENCE)
    link = ["cat", "/sys/class/net/eth0/operstate"]
    assert wait_until(lambda: guest.ssh.run(link).stdout == "up\n", PATIENCE)
    seen = [-1]

    def no_new_exits() -> bool:
        time.sleep(0.5)
        seen.append(guest.statistics()["user_exits"])
        return seen[-1] == seen[-2]

    assert wait_until(no_new_exits, PATIENCE)


def modules(guest: Guest) -> str:
    return guest.ssh.run(["cat", "/proc/modules"]).stdout


def resident(guest: Guest, host: Host) -> float:
    """Resident memory of the guest's VMM process, in MiB."""
    rollup = host.run(["cat", f"/proc/{guest.facts['pid']}/smaps_rollup"]).stdout
    match = re.search(r"^Rss: +(\d+) kB", rollup, re.MULTILINE)
    assert match
    return int(match[1]) / 1024


def exits(guest: Guest, command: str, last: str = "") -> tuple[int, dict[str, int]]:
    """User-space exits of a command in the guest, and all statistics after it.

    last: the console line to wait for.
    """
    before = guest.statistics()
    guest.ssh.run(command)
    if last:
        assert guest.console.wait_for(last, PATIENCE)
    after = guest.statistics()
    return after["user_exits"] - before["user_exits"], after


def test_reading_pci_configuration_causes_no_exit(idle_guest: Guest) -> None:
    """Linux reads it a thousand times in a boot."""
    read = "cat /sys/bus/pci/devices/*/config > /tmp/config"
    cost, _ = exits(idle_guest, read)
    assert cost == 0
    config = idle_guest.ssh.get("/tmp/config")
    idle_guest.ssh.run(["rm", "/tmp/config"])
    assert len(config) == 256 * len(re.findall(" type 00 ", idle_guest.ssh.run(["dmesg"]).stdout))
    assert {config[at : at + 2] for at in range(256, len(config), 256)} == {b"\xf4\x1a"}


def test_memory_of_an_ended_guest_is_not_used_again(
    guests: GuestFactory, emulated_host: Host
) -> None:
    """The agent keeps the memory file, so that its pages stay allocated."""
    assert isinstance(guests.hypervisor, SupervisedHypervisor)

    def files(pid: int) -> set[str]:
        """Inodes of guests' memory files that a process has."""
        script = (
            f"cd /proc/{pid}/fd && for i in *; do echo $(readlink $i) $(stat -L -c %i $i); done"
        )
        lines = emulated_host.run(["sh", "-c", script]).stdout.splitlines()
        return {line.split()[-1] for line in lines if "memfd:guest" in line}

    guest = guests("ends")
    own = files(int(guest.facts["pid"]))
    assert len(own) == 1
    guest.stop()
    assert own <= files(guests.hypervisor.agent.pid)


def test_randomness_causes_no_exit(idle_guest: Guest) -> None:
    assert idle_guest.ssh.run(["cat", "/sys/class/misc/hw_random/rng_current"]).stdout == (
        "virtio_rng.0\n"
    )
    requests = idle_guest.statistics()["rng_requests"]
    cost, after = exits(idle_guest, "dd if=/dev/hwrng of=/tmp/random bs=64 count=200 2>/dev/null")
    assert after["rng_requests"] >= requests + 100
    assert cost == 0
    data = idle_guest.ssh.get("/tmp/random")
    idle_guest.ssh.run(["rm", "/tmp/random"])
    assert len(data) == 200 * 64
    assert len(set(data)) == 256, "the bytes are not random"


def test_freed_memory_returns_to_the_host(idle_guest: Guest, emulated_host: Host) -> None:
    """The guest reports free pages without a request."""
    idle_guest.ssh.run("dd if=/dev/zero of=/dev/shm/held bs=1M count=100 2>/dev/null")
    used = resident(idle_guest, emulated_host)
    idle_guest.ssh.run(["rm", "/dev/shm/held"])
    assert wait_until(lambda: used - resident(idle_guest, emulated_host) > 80, PATIENCE)


def test_balloon_takes_and_returns_memory(idle_guest: Guest, emulated_host: Host) -> None:
    idle_guest.ssh.run("dd if=/dev/zero of=/dev/shm/held bs=1M count=80 2>/dev/null")
    free = idle_guest.balloon()["balloon_free_memory"]
    before = resident(idle_guest, emulated_host)
    assert idle_guest.balloon(64)["balloon_target"] == 64
    assert wait_until(lambda: idle_guest.statistics()["balloon_actual"] == 64, PATIENCE)
    assert resident(idle_guest, emulated_host) < before + 16, (
        "the balloon must not cost the host memory"
    )
    reported = idle_guest.balloon()
    assert reported["balloon_free_memory"] < free - 32 * MIB
    assert reported["balloon_available_memory"] < reported["balloon_total_memory"] < 256 * MIB
    idle_guest.balloon(0)
    assert wait_until(lambda: idle_guest.statistics()["balloon_actual"] == 0, PATIENCE)
    idle_guest.ssh.run(["rm", "/dev/shm/held"])
    assert idle_guest.balloon()["balloon_free_memory"] > free


def test_balloon_larger_than_the_guest_is_refused(idle_guest: Guest) -> None:
    with pytest.raises(HarnessError, match="a balloon of 257 MiB in 256 MiB"):
        idle_guest.balloon(257)


def test_virtio_console_causes_no_exit(guests: GuestFactory, idle_guest: Guest) -> None:
    vmm = {"console": "virtio", "rng": False, "balloon": False}
    guest = guests("hvc", vmm=vmm)
    # init's line about SSH comes through hvc0; its first line precedes the console
    assert guest.console.wait_for("harness: sshd", PATIENCE)
    assert not any("rng" in name or "balloon" in name for name in guest.facts["devices"])
    with pytest.raises(HarnessError, match="no balloon"):
        guest.balloon()
    wait_idle(guest)
    script = f"for i in $(seq {LINES}); do echo line $i >/dev/console; done"
    cost, after = exits(guest, script)
    assert guest.console.wait_for(f"line {LINES}", PATIENCE)
    assert cost == 0
    assert after["console_requests"] >= LINES
    by_port, _ = exits(idle_guest, script, f"line {LINES}")  # the port is slower than the shell
    assert by_port > LINES
    reader = guest.ssh.popen("head -1 </dev/hvc0")
    supervisor = guest.machine._agent  # type: ignore[attr-defined]
    supervisor.request("type", guest.name, {"text": "hello\n"})
    assert reader.readline() == b"hello\n"
    assert reader.wait(PATIENCE) == 0
