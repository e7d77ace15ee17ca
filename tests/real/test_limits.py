"""What a guest may have of its host: CPU time, CPUs, memory; and many vCPUs on few."""

from __future__ import annotations

import json
from itertools import count

import pytest

from harness.errors import ProvisionError
from harness.guest.factory import GuestFactory
from harness.guest.payload import PayloadFactory
from harness.hosts.base import Host
from harness.hosts.facts import parse_cpu_list
from harness.hypervisors.kvm import KvmHypervisor
from tests.real.conftest import MEMORY

VCPUS = 8
# Where each vCPU's thread may run, by its name.
PLACES = """
import json, os, sys
root = f"/proc/{sys.argv[1]}/task"
found = {open(f"{root}/{tid}/comm").read().strip(): sorted(os.sched_getaffinity(int(tid)))
         for tid in os.listdir(root)}
print(json.dumps(found))
"""
# A loop on each CPU at the same time; each says where it was.
LOOPS = """
for cpu in $(seq 0 7); do
    taskset -c $cpu sh -c 'n=0; while [ $n -lt 2000 ]; do n=$((n + 1)); done
        while read key value rest; do [ "$key" = Cpus_allowed_list: ] && echo $value; done \
            </proc/self/status' &
done
wait
"""


def test_limits_and_pins_are_the_kernels(guests: GuestFactory, emulated_host: Host) -> None:
    one, two = emulated_host.facts.cpu_numbers
    guest = guests(
        "limited", vcpus=2, cpu_limit=0.9, cpus=[one, two], memory_limit=2 * MEMORY, pin=[two, one]
    )
    folder = guest.facts["cgroup"]
    files = [f"{folder}/{name}" for name in ("cpu.max", "cpuset.cpus", "memory.max")]
    said = emulated_host.run(["cat", *files]).stdout.split("\n")
    assert said[:3] == ["90000 100000", f"{one}-{two}", str(2 * MEMORY << 20)]
    places = emulated_host.run(["python3", "-I", "-S", "-c", PLACES, str(guest.facts["pid"])])
    found = json.loads(places.stdout)
    assert (found["vcpu0"], found["vcpu1"]) == ([two], [one])
    before = guest.statistics()
    assert 0 < before["cgroup_memory"] <= before["cgroup_memory_peak"] <= 2 * MEMORY << 20
    guest.ssh.run("n=0; while [ $n -lt 3000 ]; do n=$((n + 1)); done")
    after = guest.statistics()
    assert after["cgroup_cpu_usec"] > before["cgroup_cpu_usec"]
    # the cgroup has what the process has, and the kernel's work for it besides
    assert after["cgroup_cpu_usec"] * 1000 > 0.8 * after["cpu_ns"]
    assert after["cgroup_oom_kills"] == 0


def test_a_cpu_that_is_not_there_is_refused(guests: GuestFactory) -> None:
    with pytest.raises(ProvisionError, match=r"cpuset.cpus cannot be '77'"):
        guests("nowhere", cpus=[77])
    with pytest.raises(ProvisionError, match=r"CPUs \[77\]"):
        guests("nowhere", pin=[77])


def test_eight_vcpus_on_two_cpus(guests: GuestFactory) -> None:
    guest = guests("wide", vcpus=VCPUS, memory=256, boot_timeout=300.0)
    assert guest.ssh.run(["nproc"]).stdout == f"{VCPUS}\n"
    online = guest.ssh.run(["cat", "/sys/devices/system/cpu/online"]).stdout
    assert online == f"0-{VCPUS - 1}\n"
    about: dict[str, list[str]] = {}
    for line in guest.ssh.run(["cat", "/proc/cpuinfo"]).stdout.splitlines():
        name, _, value = line.partition(":")
        about.setdefault(name.strip(), []).append(value.strip())
    assert about["cpu cores"] == about["siblings"] == [str(VCPUS)] * VCPUS
    assert set(about["physical id"]) == {"0"}
    for name in ("core id", "apicid", "initial apicid"):
        assert sorted(about[name], key=int) == [str(number) for number in range(VCPUS)], name
    loops = guest.ssh.run(LOOPS, timeout=300).stdout.split()
    assert sorted(loops) == [str(number) for number in range(VCPUS)]


def test_nobody_gets_the_first_cpu(emulated_host: Host) -> None:
    """Of the emulated host: QEMU would lose what it notes of guests there. Also not when a
    supervisor has ended before, and took its cgroups with it."""
    for _ in range(2):
        hypervisor = KvmHypervisor(emulated_host, lambda text: None)
        try:
            payloads = PayloadFactory(hypervisor=hypervisor, prefix="cpu", numbers=count())
            guest = payloads(b"\xf4", mode="protected")
            status = emulated_host.run(["cat", f"/proc/{guest.facts['pid']}/status"]).stdout
            (line,) = [one for one in status.split("\n") if one.startswith("Cpus_allowed_list")]
            assert parse_cpu_list(line.split()[1]) == emulated_host.facts.cpu_numbers
            assert 0 not in emulated_host.facts.cpu_numbers
        finally:
            hypervisor.close()
    kept = emulated_host.run(["cat", "/sys/fs/cgroup/pytest-hypervisor/cpuset.cpus"]).stdout
    assert parse_cpu_list(kept.strip()) == emulated_host.facts.cpu_numbers
