"""Reaching into guests with a kernel: what Linux makes of it, and that it goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from harness.errors import CommandError
from harness.guest.devices import Bar, PciDevice, PortDevice
from harness.guest.guest import Guest
from harness.guest.vm import AtRequest, Exit
from harness.hosts.base import Host
from harness.hypervisors.base import Disk
from harness.hypervisors.kvm import KvmHypervisor
from images.image import GuestImage
from tests.docs.examples import Example, examples
from tests.real.conftest import Inner, factory
from tests.waiting import wait_until

SERIAL = "reached"


class Card(PciDevice):
    """Two BARs, a vector, and nothing behind them."""

    vendor, device, class_code = 0x1AB8, 0x0042, 0x120000
    bars = (Bar(4096), Bar(32, io=True))


class Reads(PortDevice):
    """Counts its reads: (offset, size)."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[int, int]] = Counter()

    def read(self, offset: int, size: int) -> int:
        self.seen[offset, size] += 1
        return self.seen[offset, size] & 0xFF


READS = Reads()


@pytest.fixture(scope="module")
def reached(kvm: KvmHypervisor, image: GuestImage) -> Iterator[Guest]:
    """One guest with devices of ours and a disk that may fail."""
    path = str(PurePosixPath(kvm.host.scratch()) / "reached-disk")
    kvm.host.run(["truncate", "-s", "1M", path])
    make = factory(kvm, image, lambda made: None)
    disk = Disk(path, SERIAL, backend="process")  # faults are of what the VMM itself serves
    guest = make(SERIAL, devices=[Card(), READS], disks=[disk])
    yield guest
    guest.stop()
    kvm.host.run(["rm", "-f", path])


def test_the_kernels_banner_is_in_guest_memory(reached: Guest) -> None:
    release = reached.ssh.run(["uname", "-r"]).stdout.strip()
    places = reached.ssh.run("grep 'Kernel rodata' /proc/iomem").stdout
    start, end = (int(word, 16) for word in places.split(":")[0].strip().split("-"))
    step = 256 << 10
    wanted = f"Linux version {release} ".encode()
    assert any(
        wanted in reached.vm.memory[at : min(at + step + len(wanted), end)]
        for at in range(start, end, step)
    )


def test_paused_it_stands_and_resumed_ssh_goes_on(reached: Guest) -> None:
    across = reached.ssh.popen("echo start; read line; echo $line")
    assert across.readline() == b"start\n"
    with reached.vm.paused():
        regs, sregs = reached.vm.vcpus[0].regs, reached.vm.vcpus[0].sregs
        assert sregs.cr0 >> 31
        assert sregs.efer & 0x500 == 0x500, "long mode"
        assert dict(reached.vm.vcpus[0].regs) == dict(regs)
        across.write(b"still here\n")
    assert across.readline() == b"still here\n"
    assert across.wait(10.0) == 0


def test_linux_finds_the_card(reached: Guest) -> None:
    where = reached.ssh.run("dirname $(grep -l 0x1ab8 /sys/bus/pci/devices/*/vendor)").stdout
    folder = where.strip()
    assert folder.count("/") == 5, where
    about = reached.ssh.run(f"cat {folder}/device {folder}/class").stdout
    assert about == "0x0042\n0x120000\n"
    bars = [
        line.split() for line in reached.ssh.run(["cat", f"{folder}/resource"]).stdout.splitlines()
    ]
    sizes = [int(end, 16) - int(start, 16) + 1 for start, end, _ in bars[:3]]
    assert sizes == [4096, 32, 4096], "the third has the vectors"


def test_a_program_in_the_guest_uses_ports_of_the_test(reached: Guest) -> None:
    read = "hv-exits pio_user --batches 1 --ops 10 --port"
    reached.ssh.run(f"{read} {READS.port + 5}")
    assert READS.seen[5, 1] == READS.seen.total() >= 10
    seen: list[Exit] = []
    hook = reached.vm.on_exit("io", seen.append, port=READS.port + 6)
    reached.ssh.run(f"{read} {READS.port + 6}")
    hook.remove()
    assert len(seen) == READS.seen[6, 1] >= 10
    assert {(one.size, one.write) for one in seen} == {(1, False)}


def test_an_nmi_reaches_the_kernel(reached: Guest) -> None:
    def count() -> int:
        return int(reached.ssh.run("grep NMI: /proc/interrupts").stdout.split()[1])

    before = count()
    reached.vm.inject_fault("nmi")
    assert wait_until(lambda: count() == before + 1)
    # KVM of an emulated host may hand it on late: the kernel has its word of it, too
    assert wait_until(lambda: "NMI" in reached.ssh.run(["dmesg"]).stdout)


def test_the_nth_request_of_a_disk_is_an_io_error(reached: Guest) -> None:
    disk = f"/dev/disk/by-serial/{SERIAL}"
    read = f"dd if={disk} of=/dev/null bs=4k count=1 iflag=direct"
    reached.ssh.run(f"{read} skip=1")
    reached.vm.inject_fault("disk-error", at=AtRequest(SERIAL, 2))
    reached.ssh.run(f"{read} skip=2")
    with pytest.raises(CommandError, match="Input/output error"):
        reached.ssh.run(f"{read} skip=3")
    reached.ssh.run(f"{read} skip=3")
    assert "I/O error" in reached.ssh.run(["dmesg"]).stdout


@pytest.mark.parametrize("example", examples(boots_kernel=True), ids=lambda one: one.name)
def test_the_examples_with_a_kernel(inner: Inner, example: Example) -> None:
    outcomes = inner(example.source).parseoutcomes()
    outcomes.pop("warnings", None)
    passed = outcomes.pop("passed")
    assert not outcomes
    assert passed >= example.test_count  # a test with the fixture boot runs several times


def test_payloads_run_on_an_emulated_host_too(inner: Inner, emulated_host: Host) -> None:
    source = """
        from harness.guest.payload import assemble

        def test_it(payload, virt_host):
            guest = payload(assemble("1: incl 0x200000; jmp 1b"))
            assert payload.hypervisor.host is virt_host
            while guest.vm.memory[0x200000:0x200004] == bytes(4):
                assert not guest.ended.is_set()
    """
    inner(source, "--virt-host=emulated").assert_outcomes(passed=1)
