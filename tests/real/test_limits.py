"""Limits of CPU time, CPUs and memory of a guest, and more vCPUs than CPUs."""

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
# Prints the CPU affinity of each thread of a process, by its name.
AFFINITIES = """
import json, os, sys
root = f"/proc/{sys.argv[1]}/task"
affinities = {open(f"{root}/{tid}/comm").read().strip(): sorted(os.sched_getaffinity(int(tid)))
              for tid in os.listdir(root)}
print(json.dumps(affinities))
"""
# Runs a loop on each CPU at the same time; each prints its CPU.
LOOPS = """
for cpu in $(seq 0 7); do
    taskset -c $cpu sh -c 'n=0; while [ $n -lt 2000 ]; do n=$((n + 1)); done
        while read key value rest; do [ "$key" = Cpus_allowed_list: ] && echo $value; done \
            </proc/self/status' &
done
wait
"""


def test_limits_and_pins_are_set_in_the_kernel(guests: GuestFactory, emulated_host: Host) -> None:
    one, two = emulated_host.facts.cpu_numbers
    guest = guests(
        "limited", vcpus=2, cpu_limit=0.9, cpus=[one, two], memory_limit=2 * MEMORY, pin=[two, one]
    )
    folder = guest.facts["cgroup"]
    files = [f"{folder}/{name}" for name in ("cpu.max", "cpuset.cpus", "memory.max")]
    limits = emulated_host.run(["cat", *files]).stdout.split("\n")
    assert limits[:3] == ["90000 100000", f"{one}-{two}", str(2 * MEMORY << 20)]
    output = emulated_host.run(["python3", "-I", "-S", "-c", AFFINITIES, str(guest.facts["pid"])])
    affinities = json.loads(output.stdout)
    assert (affinities["vcpu0"], affinities["vcpu1"]) == ([two], [one])
    before = guest.statistics()
    assert 0 < before["cgroup_memory"] <= before["cgroup_memory_peak"] <= 2 * MEMORY << 20
    guest.ssh.run("n=0; while [ $n -lt 3000 ]; do n=$((n + 1)); done")
    after = guest.statistics()
    assert after["cgroup_cpu_usec"] > before["cgroup_cpu_usec"]
    # the cgroup's time includes the kernel's work for the process
    assert after["cgroup_cpu_usec"] * 1000 > 0.8 * after["cpu_ns"]
    assert after["cgroup_oom_kills"] == 0


def test_missing_cpu_is_refused(guests: GuestFactory) -> None:
    with pytest.raises(ProvisionError, match=r"cpuset.cpus cannot be '77'"):
        guests("nowhere", cpus=[77])
    with pytest.raises(ProvisionError, match=r"CPUs \[77\]"):
        guests("nowhere", pin=[77])


def test_eight_vcpus_run_on_two_cpus(guests: GuestFactory) -> None:
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


def test_guests_do_not_run_on_the_first_cpu(emulated_host: Host) -> None:
    """QEMU loses guest state on the first CPU of an emulated host.

    The second agent creates the cgroups again.
    """
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
    cpuset = emulated_host.run(["cat", "/sys/fs/cgroup/pytest-hypervisor/cpuset.cpus"]).stdout
    assert parse_cpu_list(cpuset.strip()) == emulated_host.facts.cpu_numbers
