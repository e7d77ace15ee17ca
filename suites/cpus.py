"""Which CPUs of its host a guest gets."""

from __future__ import annotations

from collections.abc import Sequence

from harness.guest.guest import Guest


def can_confine(guest: Guest) -> bool:
    """Whether it has a cgroup with the controller for that."""
    file = _file(guest)
    return bool(file) and guest.hypervisor.host.run(["test", "-e", file], check=False).status == 0


def confine(guest: Guest, cpus: Sequence[int]) -> None:
    """All processes of a guest that `can_confine` run on these from now on. Guests come up quicker
    on several CPUs, so that this is for one that is up."""
    given = ",".join(map(str, cpus))
    guest.hypervisor.host.run(["sh", "-c", 'echo "$1" > "$2"', "sh", given, _file(guest)])


def _file(guest: Guest) -> str:
    cgroup = guest.facts["cgroup"]
    return f"{cgroup}/cpuset.cpus" if cgroup else ""
