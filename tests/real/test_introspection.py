"""VM introspection of guests that run Linux."""

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

SERIAL = "inspected"


class Card(PciDevice):
    """Two BARs, a vector, and nothing behind them."""

    vendor, device, class_code = 0x1AB8, 0x0042, 0x120000
    bars = (Bar(4096), Bar(32, io=True))


class ReadCounter(PortDevice):
    """Counts its reads: (offset, size)."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[int, int]] = Counter()

    def read(self, offset: int, size: int) -> int:
        self.seen[offset, size] += 1
        return self.seen[offset, size] & 0xFF


COUNTER = ReadCounter()


@pytest.fixture(scope="module")
def inspected_guest(kvm: KvmHypervisor, image: GuestImage) -> Iterator[Guest]:
    """One guest with devices of the test and a disk that may fail."""
    path = str(PurePosixPath(kvm.host.scratch()) / "inspected-disk")
    kvm.host.run(["truncate", "-s", "1M", path])
    make = factory(kvm, image, lambda guest: None)
    # the VMM injects faults only into disks that its process serves
    disk = Disk(path, SERIAL, backend="process")
    guest = make(SERIAL, devices=[Card(), COUNTER], disks=[disk])
    yield guest
    guest.stop()
    kvm.host.run(["rm", "-f", path])


def test_guest_memory_contains_the_kernels_banner(inspected_guest: Guest) -> None:
    release = inspected_guest.ssh.run(["uname", "-r"]).stdout.strip()
    places = inspected_guest.ssh.run("grep 'Kernel rodata' /proc/iomem").stdout
    start, end = (int(word, 16) for word in places.split(":")[0].strip().split("-"))
    step = 256 << 10
    banner = f"Linux version {release} ".encode()
    assert any(
        banner in inspected_guest.vm.memory[at : min(at + step + len(banner), end)]
        for at in range(start, end, step)
    )


def test_registers_do_not_change_in_a_pause_and_ssh_survives(inspected_guest: Guest) -> None:
    across = inspected_guest.ssh.popen("echo start; read line; echo $line")
    assert across.readline() == b"start\n"
    with inspected_guest.vm.paused():
        regs, sregs = inspected_guest.vm.vcpus[0].regs, inspected_guest.vm.vcpus[0].sregs
        assert sregs.cr0 >> 31
        assert sregs.efer & 0x500 == 0x500, "long mode"
        assert dict(inspected_guest.vm.vcpus[0].regs) == dict(regs)
        across.write(b"still here\n")
    assert across.readline() == b"still here\n"
    assert across.wait(10.0) == 0


def test_linux_detects_the_pci_device(inspected_guest: Guest) -> None:
    where = inspected_guest.ssh.run(
        "dirname $(grep -l 0x1ab8 /sys/bus/pci/devices/*/vendor)"
    ).stdout
    folder = where.strip()
    assert folder.count("/") == 5, where
    about = inspected_guest.ssh.run(f"cat {folder}/device {folder}/class").stdout
    assert about == "0x0042\n0x120000\n"
    bars = [
        line.split()
        for line in inspected_guest.ssh.run(["cat", f"{folder}/resource"]).stdout.splitlines()
    ]
    sizes = [int(end, 16) - int(start, 16) + 1 for start, end, _ in bars[:3]]
    assert sizes == [4096, 32, 4096], "the third BAR has the MSI-X table"


def test_program_in_the_guest_reads_the_tests_ports(inspected_guest: Guest) -> None:
    read = "hv-exits pio_user --batches 1 --ops 10 --port"
    inspected_guest.ssh.run(f"{read} {COUNTER.port + 5}")
    assert COUNTER.seen[5, 1] == COUNTER.seen.total() >= 10
    seen: list[Exit] = []
    hook = inspected_guest.vm.on_exit("io", seen.append, port=COUNTER.port + 6)
    inspected_guest.ssh.run(f"{read} {COUNTER.port + 6}")
    hook.remove()
    assert len(seen) == COUNTER.seen[6, 1] >= 10
    assert {(one.size, one.write) for one in seen} == {(1, False)}


def test_an_nmi_reaches_the_kernel(inspected_guest: Guest) -> None:
    def count() -> int:
        return int(inspected_guest.ssh.run("grep NMI: /proc/interrupts").stdout.split()[1])

    before = count()
    inspected_guest.vm.inject_fault("nmi")
    assert wait_until(lambda: count() == before + 1)
    # KVM of an emulated host may deliver the NMI late; the kernel logs it then
    assert wait_until(lambda: "NMI" in inspected_guest.ssh.run(["dmesg"]).stdout)


def test_disk_error_hits_the_chosen_request(inspected_guest: Guest) -> None:
    disk = f"/dev/disk/by-serial/{SERIAL}"
    read = f"dd if={disk} of=/dev/null bs=4k count=1 iflag=direct"
    inspected_guest.ssh.run(f"{read} skip=1")
    inspected_guest.vm.inject_fault("disk-error", at=AtRequest(SERIAL, 2))
    inspected_guest.ssh.run(f"{read} skip=2")
    with pytest.raises(CommandError, match="Input/output error"):
        inspected_guest.ssh.run(f"{read} skip=3")
    inspected_guest.ssh.run(f"{read} skip=3")
    assert "I/O error" in inspected_guest.ssh.run(["dmesg"]).stdout


@pytest.mark.parametrize("example", examples(boots_kernel=True), ids=lambda one: one.name)
def test_documented_examples_that_boot_a_kernel_pass(inner: Inner, example: Example) -> None:
    outcomes = inner(example.source).parseoutcomes()
    outcomes.pop("warnings", None)
    passed = outcomes.pop("passed")
    assert not outcomes
    assert passed >= example.test_count  # a test with the fixture boot runs several times


def test_payloads_run_on_an_emulated_host(inner: Inner, emulated_host: Host) -> None:
    source = """
        from harness.guest.payload import assemble

        def test_it(payload, virt_host):
            guest = payload(assemble("1: incl 0x200000; jmp 1b"))
            assert payload.hypervisor.host is virt_host
            while guest.vm.memory[0x200000:0x200004] == bytes(4):
                assert not guest.ended.is_set()
    """
    inner(source, "--virt-host=emulated").assert_outcomes(passed=1)
