"""The ring of coalesced writes; the test acts as the kernel."""

from __future__ import annotations

import mmap
import struct

import pytest

from harness.kvm.coalesced import CoalescedRing
from harness.kvm.errors import GuestFault
from harness.kvm.structs import COALESCED_ENTRY

ENTRIES = (mmap.PAGESIZE - 8) // 24


class Kernel:
    """The ring's page, and a port that records writes."""

    def __init__(self) -> None:
        self.run = mmap.mmap(-1, 3 * mmap.PAGESIZE)
        self.at = 2 * mmap.PAGESIZE
        self.writes: list[tuple[int, int, int]] = []
        self.arriving: list[int] = []
        self.ring = CoalescedRing(self.run, 2, self.write)

    def indices(self) -> tuple[int, int]:
        first, last = struct.unpack_from("<II", self.run, self.at)
        return first, last

    def put(self, port: int, size: int, value: int) -> bool:
        """As coalesced_mmio_write(). One entry stays free to mark a full ring."""
        first, last = self.indices()
        if (last + 1) % ENTRIES == first:
            return False
        entry = COALESCED_ENTRY.pack(port, size, 1, value.to_bytes(8, "little"))
        at = self.at + 8 + last * COALESCED_ENTRY.size
        self.run[at : at + len(entry)] = entry
        struct.pack_into("<I", self.run, self.at + 4, (last + 1) % ENTRIES)
        return True

    def write(self, port: int, size: int, value: int) -> None:
        self.writes.append((port, size, value))
        if self.arriving:
            assert self.put(self.arriving.pop(), 1, 7)


def test_drain_of_an_empty_ring_writes_nothing() -> None:
    kernel = Kernel()
    kernel.ring.drain()
    assert kernel.writes == []


def test_writes_keep_order_and_width_across_the_wrap() -> None:
    kernel, expected = Kernel(), []
    for turn in range(500):
        size = (1, 2, 4)[turn % 3]
        entry = (turn, size, turn * 0x1_0101 & (1 << 8 * size) - 1)
        assert kernel.put(*entry)
        expected.append(entry)
        if turn % 7 == 0:
            kernel.ring.drain()
    kernel.ring.drain()
    assert kernel.writes == expected
    assert kernel.indices()[0] == kernel.indices()[1] == 500 % ENTRIES


def test_drain_empties_a_full_ring() -> None:
    kernel = Kernel()
    while kernel.put(1, 1, 1):
        pass
    kernel.ring.drain()
    assert len(kernel.writes) == ENTRIES - 1


def test_drain_handles_writes_that_arrive_during_it() -> None:
    kernel = Kernel()
    kernel.arriving = [3, 2]
    kernel.put(1, 1, 7)
    kernel.ring.drain()
    assert [port for port, _, _ in kernel.writes] == [1, 2, 3]


@pytest.mark.parametrize(("first", "last"), [(ENTRIES, 0), (0, ENTRIES), (1 << 31, 5)])
def test_indices_outside_the_ring_raise_guest_fault(first: int, last: int) -> None:
    kernel = Kernel()
    struct.pack_into("<II", kernel.run, kernel.at, first, last)
    with pytest.raises(GuestFault, match="coalesced"):
        kernel.ring.drain()
