"""Disks and limits of a guest, and what a hypervisor refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from harness.errors import ProvisionError
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.base import Disk, Hypervisor

MEMORY, MEMORY_LIMIT = 128, 512  # MiB
MIB = 1 << 20
TIMEOUT = 30.0  # seconds
WRITABLE, READ_ONLY = "writable", "readonly"


@pytest.fixture(scope="module")
def files(hypervisor: Hypervisor) -> Iterator[dict[str, str]]:
    """A file on the host for each disk, with different contents and sizes."""
    host = hypervisor.host
    folder = host.run(["mktemp", "-d", "-p", host.scratch()]).stdout.strip()
    paths = {WRITABLE: f"{folder}/{WRITABLE}", READ_ONLY: f"{folder}/{READ_ONLY}"}
    for size, path in enumerate(paths.values(), 4):
        host.run(["dd", "if=/dev/urandom", f"of={path}", "bs=1M", f"count={size}", "status=none"])
    yield paths
    host.run(["rm", "-r", "--", folder])


@pytest.fixture(scope="module")
def guest_with_limits(
    hypervisor: Hypervisor, guest_factory: GuestFactory, files: dict[str, str]
) -> Iterator[Guest]:
    """A guest with two disks, a limit of memory, and the host's last CPU."""
    limits: dict[str, Any] = {}
    if can_limit(hypervisor.host):
        limits = {"memory_limit": MEMORY_LIMIT, "cpus": [last(hypervisor)]}
    disks = [Disk(files[WRITABLE], WRITABLE, readonly=False), Disk(files[READ_ONLY], READ_ONLY)]
    guest = guest_factory("resources", memory=MEMORY, disks=disks, **limits)
    yield guest
    guest.stop()


def can_limit(host: Host) -> bool:
    """Whether this user can create cgroups on the host."""
    return host.run(["test", "-w", "/sys/fs/cgroup/cgroup.procs"], check=False).status == 0


def last(hypervisor: Hypervisor) -> int:
    return hypervisor.host.facts.cpu_numbers[-1]


def device(serial: str) -> str:
    return f"/dev/disk/by-serial/{serial}"


def checksum(text: str) -> str:
    return text.partition(" ")[0]


@pytest.mark.parametrize("serial", [WRITABLE, READ_ONLY])
def test_disks_have_their_names_and_contents(
    guest_with_limits: Guest, virt_host: Host, files: dict[str, str], serial: str
) -> None:
    there = virt_host.run(["sha256sum", files[serial]]).stdout
    here = guest_with_limits.ssh.run(["sha256sum", device(serial)]).stdout
    assert checksum(here) == checksum(there)


def test_writes_reach_the_hosts_file(
    guest_with_limits: Guest, virt_host: Host, files: dict[str, str]
) -> None:
    guest_with_limits.ssh.run(f"echo written by the guest >{device(WRITABLE)}; sync")
    head = virt_host.run(["head", "-c", "20", files[WRITABLE]]).stdout
    assert head == "written by the guest"


def test_a_read_only_disk_refuses_writes(
    guest_with_limits: Guest, virt_host: Host, files: dict[str, str]
) -> None:
    before = virt_host.run(["sha256sum", files[READ_ONLY]]).stdout
    argv = ["dd", "if=/dev/zero", f"of={device(READ_ONLY)}", "bs=4k", "count=1", "conv=fsync"]
    assert guest_with_limits.ssh.run(argv, check=False).status != 0
    assert virt_host.run(["sha256sum", files[READ_ONLY]]).stdout == before


def test_the_cgroup_has_the_limits(
    guest_with_limits: Guest, hypervisor: Hypervisor, virt_host: Host
) -> None:
    if not can_limit(virt_host):
        pytest.skip("this user cannot create cgroups on the host")
    cgroup = guest_with_limits.facts.get("cgroup")
    assert cgroup, "the guest has no cgroup, so its limits are ignored"
    files = [f"{cgroup}/memory.max", f"{cgroup}/cpuset.cpus"]
    values = virt_host.run(["cat", *files]).stdout.split()
    assert values == [str(MEMORY_LIMIT * MIB), str(last(hypervisor))]
    statistics = guest_with_limits.statistics()
    assert 0 < statistics["cgroup_memory"] <= MEMORY_LIMIT * MIB
    assert statistics["cgroup_oom_kills"] == 0


def test_an_unknown_option_is_refused(guest_factory: GuestFactory) -> None:
    with pytest.raises(ProvisionError) as caught:
        guest_factory("refused", memory=MEMORY, vmm={"no-such-option": True})
    assert caught.value.stage == "create"
    assert "no-such-option" in caught.value.cause


def test_a_missing_disk_is_an_error(guest_factory: GuestFactory) -> None:
    """Either create() refuses it, or the VMM ends."""
    try:
        guest = guest_factory.launch("refused", memory=MEMORY, disks=[Disk("/no/such", "none")])
    except ProvisionError as error:
        cause = error.cause
    else:
        cause = guest.wait_end(TIMEOUT).detail
        guest.stop()
    assert "/no/such" in cause
