"""Disks, persistent memory and huge pages of real guests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from harness.hypervisors.base import Disk
from harness.hypervisors.kvm import KvmHypervisor
from harness.hypervisors.qemu import QemuHypervisor
from images.image import GuestImage
from suites import ksm
from suites.io.fio import Job, parse_figures
from tests.real.conftest import MEMORY, factory
from tests.waiting import wait_until

MIB = 16


def by_serial(name: str) -> str:
    return f"/dev/disk/by-serial/{name}"


def digest(guest: Guest, name: str) -> str:
    """SHA-256 of a disk, without the guest's page cache."""
    read = f"dd if={by_serial(name)} bs=1M iflag=direct status=none | sha256sum"
    return str(guest.ssh.run(read).stdout.split()[0])


@pytest.fixture(scope="module")
def files(emulated_host: Host) -> Iterator[dict[str, str]]:
    """Two files of random bytes on the host."""
    folder = PurePosixPath(emulated_host.scratch())
    paths = {name: str(folder / f"disk-{name}") for name in ("first", "second")}
    for path in paths.values():
        size = ["bs=1M", f"count={MIB}", "conv=fsync"]
        emulated_host.run(["dd", "if=/dev/urandom", f"of={path}", *size])
    yield paths
    emulated_host.run(["rm", *paths.values()])


@pytest.fixture(scope="module")
def guest_with_disks(
    kvm: KvmHypervisor, image: GuestImage, files: dict[str, str]
) -> Iterator[Guest]:
    """A guest with an overlay over the first file, and the second file itself."""
    disks = [
        Disk(files["first"], "first", overlay=True),
        Disk(files["second"], "second", direct=True),
    ]
    make = factory(kvm, image, lambda guest: None)
    guest = make("disks", disks=disks, memory=256)  # fio needs memory
    yield guest
    guest.stop()


def digest_of(host: Host, path: str) -> str:
    return host.run(["sha256sum", path]).stdout.split()[0]


def test_disks_are_found_by_serial(
    guest_with_disks: Guest, emulated_host: Host, files: dict[str, str]
) -> None:
    assert guest_with_disks.facts["devices"][:3] == ["virtio-blk (vhost-user)"] * 3
    for name, path in files.items():
        assert digest(guest_with_disks, name) == digest_of(emulated_host, path)


def test_overlay_writes_do_not_reach_the_base(
    guest_with_disks: Guest, emulated_host: Host, files: dict[str, str]
) -> None:
    before = digest_of(emulated_host, files["first"])
    folder = str(PurePosixPath(files["first"]).parent)
    names = emulated_host.run(["ls", folder]).stdout
    write = "dd if=/dev/urandom of={0} bs=64k count=40 seek=30 oflag=direct conv=notrunc,fsync"
    guest_with_disks.ssh.run(write.format(by_serial("first")))
    written = digest(guest_with_disks, "first")
    assert written != before
    guest_with_disks.ssh.run("echo 3 > /proc/sys/vm/drop_caches")
    assert digest(guest_with_disks, "first") == written
    assert digest_of(emulated_host, files["first"]) == before
    assert emulated_host.run(["ls", folder]).stdout == names, "an overlay has no name"


def test_read_only_disk_refuses_writes(guest_with_disks: Guest) -> None:
    write = ["dd", "if=/dev/zero", f"of={by_serial('second')}", "bs=4k", "count=1"]
    assert guest_with_disks.ssh.run(write, check=False).status != 0


def test_reads_cause_no_exit_to_the_vmm(guest_with_disks: Guest) -> None:
    job = Job(depth=8, size=MIB, warm_up=0, runtime=2)
    before = guest_with_disks.statistics()
    text = guest_with_disks.ssh.run(
        [*job.argv(by_serial("second"), job.runtime), "--readonly"]
    ).stdout
    after = guest_with_disks.statistics()
    requests = parse_figures(text, "guest")["iops"] * job.runtime
    assert after["block_requests_second"] - before["block_requests_second"] >= 0.9 * requests > 100
    assert after["user_exits"] - before["user_exits"] < 20


def test_qemu_guest_uses_vhost_user_disks(
    emulated_host: Host, image: GuestImage, files: dict[str, str]
) -> None:
    """QEMU uses the same back end, and its guest ends with it."""
    qemu = QemuHypervisor(emulated_host, lambda text: None)
    try:
        disks = [
            Disk(files["first"], "first"),
            Disk(files["second"], "second", direct=True, backend="vhost-user"),
        ]
        guest = factory(qemu, image, lambda guest: None)("peer", disks=disks)
        for name, path in files.items():
            assert digest(guest, name) == digest_of(emulated_host, path)
        with guest.expect_end("backend-lost"):
            emulated_host.run(["pkill", "-P", str(parent(emulated_host, guest)), "qemu-storage"])
    finally:
        qemu.close()


def parent(host: Host, guest: Guest) -> int:
    return int(host.run(["ps", "-o", "ppid=", "-p", str(guest.facts["pid"])]).stdout)


def test_root_on_persistent_memory(real_guest: Guest, guests: GuestFactory) -> None:
    guest = guests("pmem", root="pmem")
    (root,) = [
        line.split()
        for line in guest.ssh.run(["cat", "/proc/mounts"]).stdout.splitlines()
        if line.split()[1] == "/"
    ]
    assert root[0] == "/dev/pmem0"
    assert {"ro", "dax=always"} <= set(root[3].split(","))
    assert not any("blk" in device for device in guest.facts["devices"])
    files = "find /usr/bin /usr/lib -xdev -type f -size +500k | sort | xargs sha256sum | sha256sum"
    sums = [one.ssh.run(files, timeout=120.0).stdout for one in (guest, real_guest)]
    assert sums[0] == sums[1]
    assert sums[0]
    # programs map the host's pages, so the guest's page cache stays empty
    cached = "grep ^Cached: /proc/meminfo"
    assert kib(guest.ssh.run(cached).stdout) < kib(real_guest.ssh.run(cached).stdout)
    guest.stop()


def kib(line: str) -> int:
    return int(line.split()[1])


def test_guest_memory_uses_huge_pages(guests: GuestFactory, emulated_host: Host) -> None:
    def free() -> int:
        return kib(emulated_host.run(["grep", "HugePages_Free", "/proc/meminfo"]).stdout)

    reserve = "echo {0} > /proc/sys/vm/nr_hugepages"
    emulated_host.run(["sh", "-c", reserve.format(MEMORY // 2)])
    try:
        assert free() == MEMORY // 2
        guest = guests("huge", hugepages=True)
        assert guest.facts["hugepages"]
        assert 20 < MEMORY // 2 - free() <= MEMORY // 2
        guest.stop()
        assert free() == MEMORY // 2
    finally:
        emulated_host.run(["sh", "-c", reserve.format(0)])


@pytest.mark.slow
def test_ksm_merges_equal_pages_of_two_guests(guests: GuestFactory, emulated_host: Host) -> None:
    pair = [guests.launch(mergeable=True, root="pmem") for _ in range(2)]
    for guest in pair:
        guest.wait_ready()
        assert guest.facts["mergeable"]
    with ksm.at_work(emulated_host):
        assert wait_until(lambda: ksm.read(emulated_host, "pages_sharing") >= 2000, 90.0, 1.0)
        for guest in pair:
            guest.ssh.run(["true"])
