"""The small devices with a stock kernel's drivers: they work, and cost no exit that Python sees."""

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
def settled(standing: Guest) -> Guest:
    """The standing guest, once it has done what SSH does not wait for."""
    settle(standing)
    return standing


def settle(guest: Guest) -> None:
    """Until its late modules are loaded and its network's link is up, which costs exits."""
    assert wait_until(lambda: "virtio_console" in modules(guest), PATIENCE)
    link = ["cat", "/sys/class/net/eth0/operstate"]
    assert wait_until(lambda: guest.ssh.run(link).stdout == "up\n", PATIENCE)
    seen = [-1]

    def still() -> bool:
        time.sleep(0.5)
        seen.append(guest.statistics()["user_exits"])
        return seen[-1] == seen[-2]

    assert wait_until(still, PATIENCE)


def modules(guest: Guest) -> str:
    return guest.ssh.run(["cat", "/proc/modules"]).stdout


def resident(guest: Guest, host: Host) -> float:
    """MiB that the guest's VMM process has of the host's memory."""
    rollup = host.run(["cat", f"/proc/{guest.facts['pid']}/smaps_rollup"]).stdout
    found = re.search(r"^Rss: +(\d+) kB", rollup, re.MULTILINE)
    assert found
    return int(found[1]) / 1024


def exits(guest: Guest, command: str, last: str = "") -> tuple[int, dict[str, int]]:
    """User-space exits that a command in the guest costs, and all statistics afterwards. last: a
    console line that ends what it does."""
    before = guest.statistics()
    guest.ssh.run(command)
    if last:
        assert guest.console.wait_for(last, PATIENCE)
    after = guest.statistics()
    return after["user_exits"] - before["user_exits"], after


def test_reading_pci_configuration_costs_no_exit(settled: Guest) -> None:
    """As Linux does it a thousand times in a boot."""
    read = "cat /sys/bus/pci/devices/*/config > /tmp/config"
    cost, _ = exits(settled, read)
    assert cost == 0
    config = settled.ssh.get("/tmp/config")
    settled.ssh.run(["rm", "/tmp/config"])
    assert len(config) == 256 * len(re.findall(" type 00 ", settled.ssh.run(["dmesg"]).stdout))
    assert {config[at : at + 2] for at in range(256, len(config), 256)} == {b"\xf4\x1a"}


def test_memory_of_an_ended_guest_is_not_used_again(
    guests: GuestFactory, emulated_host: Host
) -> None:
    """Nor in the way of the processes of others."""
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


def test_randomness_comes_from_the_host_without_an_exit(settled: Guest) -> None:
    assert settled.ssh.run(["cat", "/sys/class/misc/hw_random/rng_current"]).stdout == (
        "virtio_rng.0\n"
    )
    requests = settled.statistics()["rng_requests"]
    cost, after = exits(settled, "dd if=/dev/hwrng of=/tmp/random bs=64 count=200 2>/dev/null")
    assert after["rng_requests"] >= requests + 100
    assert cost == 0
    data = settled.ssh.get("/tmp/random")
    settled.ssh.run(["rm", "/tmp/random"])
    assert len(data) == 200 * 64
    assert len(set(data)) == 256, "that is not random"


def test_freed_memory_goes_back_to_the_host(settled: Guest, emulated_host: Host) -> None:
    """By free page reporting: nobody asks the guest for it."""
    settled.ssh.run("dd if=/dev/zero of=/dev/shm/held bs=1M count=100 2>/dev/null")
    used = resident(settled, emulated_host)
    settled.ssh.run(["rm", "/dev/shm/held"])
    assert wait_until(lambda: used - resident(settled, emulated_host) > 80, PATIENCE)


def test_a_balloon_takes_memory_and_gives_it_back(settled: Guest, emulated_host: Host) -> None:
    settled.ssh.run("dd if=/dev/zero of=/dev/shm/held bs=1M count=80 2>/dev/null")
    free = settled.balloon()["balloon_free_memory"]
    before = resident(settled, emulated_host)
    assert settled.balloon(64)["balloon_target"] == 64
    assert wait_until(lambda: settled.statistics()["balloon_actual"] == 64, PATIENCE)
    assert resident(settled, emulated_host) < before + 16, "the host must not lose by it"
    told = settled.balloon()
    assert told["balloon_free_memory"] < free - 32 * MIB
    assert told["balloon_available_memory"] < told["balloon_total_memory"] < 256 * MIB
    settled.balloon(0)
    assert wait_until(lambda: settled.statistics()["balloon_actual"] == 0, PATIENCE)
    settled.ssh.run(["rm", "/dev/shm/held"])
    assert settled.balloon()["balloon_free_memory"] > free


def test_a_balloon_larger_than_the_guest_is_refused(settled: Guest) -> None:
    with pytest.raises(HarnessError, match="a balloon of 257 MiB in 256 MiB"):
        settled.balloon(257)


def test_a_console_without_a_serial_port_and_without_exits(
    guests: GuestFactory, settled: Guest
) -> None:
    vmm = {"console": "virtio", "rng": False, "balloon": False}
    guest = guests("hvc", vmm=vmm)
    # ready, so init's line that SSH is there came by hvc0; its first one had no console yet
    assert guest.console.wait_for("harness: sshd", PATIENCE)
    assert not any("rng" in name or "balloon" in name for name in guest.facts["devices"])
    with pytest.raises(HarnessError, match="no balloon"):
        guest.balloon()
    settle(guest)
    say = f"for i in $(seq {LINES}); do echo line $i >/dev/console; done"
    cost, after = exits(guest, say)
    assert guest.console.wait_for(f"line {LINES}", PATIENCE)
    assert cost == 0
    assert after["console_requests"] >= LINES
    by_port, _ = exits(settled, say, f"line {LINES}")  # the port is slower than the shell
    assert by_port > LINES
    reader = guest.ssh.popen("head -1 </dev/hvc0")
    supervisor = guest.machine._agent  # type: ignore[attr-defined]
    supervisor.request("type", guest.name, {"text": "hello\n"})
    assert reader.readline() == b"hello\n"
    assert reader.wait(PATIENCE) == 0
