"""What a point of a consolidation counts, against what guests and KVM count themselves.

test_load.py compares the answers of servers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import pytest

from harness.guest.guest import Guest
from harness.hosts.base import Host
from suites.consolidation import accounting
from suites.consolidation.generator import Window
from tests.real.conftest import MakeExperiment

ROLE = {"memory": 128, "rate": 5, "percentile": 90, "limit": 10}
SECONDS = 8.0
USER_HZ = 100  # clock ticks a second in /proc/stat
# KVM's counters of a process's machines: virt/kvm/kvm_main.c, kvm_create_vm_debugfs()
DEBUGFS = """
import glob, json, os, sys
folders = [path for pid in sys.argv[1:] for path in glob.glob(f"/sys/kernel/debug/kvm/{pid}-*")]
names = [name for name in os.listdir(folders[0]) if name.endswith("exits")]
print(json.dumps({name: sum(int(open(f"{path}/{name}").read()) for path in folders)
                  for name in names}))
"""

PROGRAM = "/usr/lib/postgresql/15/bin/postgres"

pytestmark = pytest.mark.long


def stolen(guests: Sequence[Guest]) -> float:
    """Seconds that guests report as steal (proc(5)), since their boot."""
    lines = [guest.ssh.run(["head", "-n", "1", "/proc/stat"]).stdout.split() for guest in guests]
    return sum(int(words[8]) for words in lines) / USER_HZ


def test_cpu_and_steal_of_busy_guests_are_those_of_the_host_and_of_the_guests(
    experiment: MakeExperiment, emulated_host: Host
) -> None:
    """Two guests want all of one CPU."""
    idle = {**ROLE, "server": "idle"}
    one = experiment({"idle": idle}, cpus=emulated_host.facts.cpu_numbers[:1])
    one.deployment.grow_to(2)
    guests = [member.guest for member in one.deployment.members]
    for guest in guests:
        guest.ssh.popen("while :; do :; done")
    outer_start, before = time.monotonic(), stolen(guests)
    cost = one.cost_of(SECONDS)
    reported = stolen(guests) - before
    outer = time.monotonic() - outer_start
    check_cpu(cost)
    # At most the whole window, of one that waits while the other one runs.
    assert SECONDS / 4 < cost.steal < 1.1 * cost.seconds
    # Guests are read before and after the host.
    assert cost.steal - 0.2 < reported < cost.steal + (outer - cost.seconds) + 0.2


def check_cpu(cost: accounting.WindowCost) -> None:
    guests = sum(cost.guest_cpu.values())
    assert cost.demand <= guests <= cost.busy + 0.1
    # The rest of the CPU is the host's own: its network, the agent, and the program that reads the
    # counters.
    assert guests > 0.8 * cost.busy
    assert cost.busy > 0.9 * cost.seconds


def kvm_exits(host: Host, guests: Sequence[Guest]) -> dict[str, int]:
    """KVM's own counters, from debugfs."""
    pids = [str(guest.facts["pid"]) for guest in guests]
    counters: dict[str, int] = json.loads(host.run(["python3", "-c", DEBUGFS, *pids]).stdout)
    return counters


def test_exits_are_those_that_kvm_counts(experiment: MakeExperiment, emulated_host: Host) -> None:
    one = experiment({"idle": {**ROLE, "server": "idle", "rate": 20}})
    one.deployment.grow_to(2)
    guests = [member.guest for member in one.deployment.members]
    # exactly, while no guest runs
    with guests[0].vm.paused():
        counted = kvm_exits(emulated_host, guests[:1])
        statistics = guests[0].statistics()
        assert {name: statistics[name] for name in counted} == counted
        assert counted["exits"] > 0
    # and in a window under load: more than between its readings, less than around them
    readings = []
    outside = []

    def during(window: Window) -> None:
        for end in (False, True):
            outside.append(kvm_exits(emulated_host, guests))
            readings.append(accounting.read(emulated_host, guests, one.generator.guest, end=end))
            outside.append(kvm_exits(emulated_host, guests))
            window.sleep_until(0.0 if end else window.seconds)

    one.load(during)
    before, after = readings
    cost = accounting.cost(before, after, one.deployment.cpus, range(2))
    for name in counted:
        first, second, third, last = (one[name] for one in outside)
        assert third - second <= cost.exits[name] <= last - first, name
    assert cost.exits["exits"] > 0


def guest_traffic(guest: Guest) -> list[int]:
    """Bytes that a guest's own interface has sent and received."""
    text = guest.ssh.run(["cat", "/proc/net/dev"]).stdout
    columns = next(line for line in text.splitlines() if "eth0:" in line).partition(":")[2].split()
    return [int(columns[8]), int(columns[0])]


def test_network_traffic_is_what_the_guest_counts(
    experiment: MakeExperiment, emulated_host: Host
) -> None:
    one = experiment({"web": {**ROLE, "server": "web"}})
    one.deployment.grow_to(1)
    guests = [member.guest for member in one.deployment.members]
    readings = []
    inside = []
    for _ in range(2):
        inside.append(guest_traffic(guests[0]))
        readings.append(accounting.read(emulated_host, guests, one.generator.guest))
        inside.append(guest_traffic(guests[0]))
        one.load()
    cost = accounting.cost(readings[0], readings[1], one.deployment.cpus, range(1))
    first, second, third, last = inside
    for number, kind in enumerate(accounting.NETWORK_KINDS):
        counted = cost.traffic[0][kind]
        # one of the two may count the headers of frames differently
        assert 0.95 * (third[number] - second[number]) <= counted, kind
        assert counted <= 1.05 * (last[number] - first[number]), kind
    assert cost.traffic[0]["network.sent"] > 10 * 4096  # of web pages


def test_disk_traffic_is_at_least_a_file_that_is_read(
    experiment: MakeExperiment, emulated_host: Host
) -> None:
    """From the disk that all containers share, without the host's cache."""
    container = experiment({"idle": {**ROLE, "server": "idle"}}).generator.guest
    size = int(container.ssh.run(["stat", "-c", "%s", PROGRAM]).stdout)
    emulated_host.run(["sh", "-c", "sync && echo 3 >/proc/sys/vm/drop_caches"])
    before = accounting.read(emulated_host, [container], container)
    container.ssh.run(["sh", "-c", f"cat {PROGRAM} >/dev/null"])
    after = accounting.read(emulated_host, [container], container, end=True)
    cost = accounting.cost(before, after, [0], [0])
    assert size > 1 << 20
    for read in (cost.traffic[0]["disks.read"], cost.disks[0]):
        assert size <= read < 4 * size
