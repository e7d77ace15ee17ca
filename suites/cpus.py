"""Confines a guest's processes to some CPUs of its host."""

from __future__ import annotations

from collections.abc import Sequence

from harness.guest.guest import Guest


def can_confine(guest: Guest) -> bool:
    """Whether the guest has a cgroup with the cpuset controller."""
    file = _cpuset_file(guest)
    return bool(file) and guest.hypervisor.host.run(["test", "-e", file], check=False).status == 0


def confine(guest: Guest, cpus: Sequence[int]) -> None:
    """Let all processes of a guest run on these host CPUs only.

    Requires `can_confine`. Call this after the boot: a guest boots faster on several CPUs.
    """
    cpu_list = ",".join(map(str, cpus))
    guest.hypervisor.host.run(["sh", "-c", 'echo "$1" > "$2"', "sh", cpu_list, _cpuset_file(guest)])


def _cpuset_file(guest: Guest) -> str:
    """The path of the cgroup's cpuset.cpus; empty without a cgroup."""
    return f"{guest.cgroup}/cpuset.cpus" if guest.cgroup else ""
