"""Guest memory: its layout, and the bounds of views."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.errors import ProvisionError
from harness.kvm.errors import ConfigError, GuestFault
from harness.vmm.memory import GAP_END, GAP_START, Memory, create_memory_file
from tests.vmm.guests import Runner
from tests.vmm.payload import FOR_EVER, HELLO

MEMORY = Memory(1 << 20)


@pytest.mark.parametrize(
    ("address", "length"),
    [
        (1 << 20, 1),
        ((1 << 20) - 4, 5),
        (0, (1 << 20) + 1),
        (GAP_END, 1),
        (1 << 64, 1),
        ((1 << 64) - 1, 2),
        ((1 << 20) + 1, 0),
    ],
)
def test_view_outside_memory_raises_guest_fault(address: int, length: int) -> None:
    with pytest.raises(GuestFault, match="outside guest memory"):
        MEMORY.view(address, length)
    with pytest.raises(GuestFault):
        MEMORY.hva(address, length)
    with pytest.raises(GuestFault):
        MEMORY.write(address, bytes(max(length, 1)))


def test_view_writes_guest_memory() -> None:
    MEMORY.write(0xFFFFE, b"ab")
    view = MEMORY.view(0xFFFFC, 4)
    assert bytes(view) == b"\0\0ab"
    view[0] = 7
    assert MEMORY.view(0xFFFFC, 1)[0] == 7
    assert MEMORY.hva(0x100, 1) - MEMORY.hva(0, 1) == 0x100


def test_memory_leaves_the_device_gap_free() -> None:
    memory = Memory(4 << 30)
    assert [(region.gpa, region.size) for region in memory.regions] == [
        (0, GAP_START),
        (GAP_END, 1 << 30),
    ]
    for address, length in ((GAP_START - 1, 2), (GAP_START, 1), (GAP_END - 1, 2)):
        with pytest.raises(GuestFault):
            memory.view(address, length)
    memory.write(GAP_END + (1 << 30) - 1, b"x")
    # a nested page-table entry of 2 MiB needs equal offsets in both addresses
    assert all(region.hva % (2 << 20) == 0 for region in memory.regions)


def test_excessive_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot map") as refused:
        Memory(1 << 50)
    assert "less memory" in refused.value.hint


def test_shared_memory_uses_one_file() -> None:
    memory = Memory(GAP_START + (4 << 20), shared_file=create_memory_file())
    low, high = memory.regions
    assert (low.fd, low.offset, high.fd, high.offset) == (low.fd, 0, low.fd, GAP_START)
    memory.write(GAP_END + 8, b"high")
    assert os.pread(low.fd, 4, GAP_START + 8) == b"high"
    os.close(low.fd)


@pytest.mark.parametrize("size", [65, 1 << 20])
def test_unavailable_huge_pages_are_refused(run: Runner, size: int) -> None:
    """An odd number of MiB, and a terabyte."""
    with pytest.raises(ProvisionError, match=f"no huge pages for {size} MiB") as refused:
        run(FOR_EVER, memory=size, hugepages=True)
    assert "vm.nr_hugepages" in refused.value.hint


def test_mergeable_memory_is_marked_for_ksm(run: Runner) -> None:
    guests = [run(HELLO + FOR_EVER, str(merge), mergeable=merge) for merge in (True, False)]
    for guest, merge in zip(guests, (True, False), strict=True):
        smaps = Path(f"/proc/{guest.machine.facts['pid']}/smaps").read_text()
        flags = [line.split() for line in smaps.splitlines() if line.startswith("VmFlags")]
        assert any("mg" in one for one in flags) == merge


def test_huge_pages_cannot_be_mergeable(run: Runner) -> None:
    with pytest.raises(ProvisionError, match=r"KSM does not merge|no huge pages"):
        run(FOR_EVER, mergeable=True, hugepages=True)
