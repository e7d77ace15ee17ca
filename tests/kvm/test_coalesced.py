"""The ring of coalesced writes, the kernel's half played by the test."""

from __future__ import annotations

import mmap
import struct

import pytest

from harness.kvm.coalesced import CoalescedRing
from harness.kvm.errors import GuestFault
from harness.kvm.structs import COALESCED_ENTRY

ENTRIES = (mmap.PAGESIZE - 8) // 24


class Kernel:
    """A page of it, and a port that notes what is written."""

    def __init__(self) -> None:
        self.run = mmap.mmap(-1, 3 * mmap.PAGESIZE)
        self.at = 2 * mmap.PAGESIZE
        self.seen: list[tuple[int, int, int]] = []
        self.more: list[int] = []
        self.ring = CoalescedRing(self.run, 2, self.write)

    def indices(self) -> tuple[int, int]:
        first, last = struct.unpack_from("<II", self.run, self.at)
        return first, last

    def put(self, port: int, size: int, value: int) -> bool:
        """coalesced_mmio_write(): one place stays free, so that full is not empty."""
        first, last = self.indices()
        if (last + 1) % ENTRIES == first:
            return False
        entry = COALESCED_ENTRY.pack(port, size, 1, value.to_bytes(8, "little"))
        at = self.at + 8 + last * COALESCED_ENTRY.size
        self.run[at : at + len(entry)] = entry
        struct.pack_into("<I", self.run, self.at + 4, (last + 1) % ENTRIES)
        return True

    def write(self, port: int, size: int, value: int) -> None:
        self.seen.append((port, size, value))
        if self.more:
            assert self.put(self.more.pop(), 1, 7)


def test_nothing_there_nothing_done() -> None:
    kernel = Kernel()
    kernel.ring.drain()
    assert kernel.seen == []


def test_writes_come_in_order_with_their_width_over_the_rings_end() -> None:
    kernel, expected = Kernel(), []
    for turn in range(500):
        size = (1, 2, 4)[turn % 3]
        entry = (turn, size, turn * 0x1_0101 & (1 << 8 * size) - 1)
        assert kernel.put(*entry)
        expected.append(entry)
        if turn % 7 == 0:
            kernel.ring.drain()
    kernel.ring.drain()
    assert kernel.seen == expected
    assert kernel.indices()[0] == kernel.indices()[1] == 500 % ENTRIES


def test_a_full_ring_is_emptied() -> None:
    kernel = Kernel()
    while kernel.put(1, 1, 1):
        pass
    kernel.ring.drain()
    assert len(kernel.seen) == ENTRIES - 1


def test_what_comes_meanwhile_is_served_too() -> None:
    kernel = Kernel()
    kernel.more = [3, 2]
    kernel.put(1, 1, 7)
    kernel.ring.drain()
    assert [port for port, _, _ in kernel.seen] == [1, 2, 3]


@pytest.mark.parametrize(("first", "last"), [(ENTRIES, 0), (0, ENTRIES), (1 << 31, 5)])
def test_impossible_indices_end_the_guest(first: int, last: int) -> None:
    kernel = Kernel()
    struct.pack_into("<II", kernel.run, kernel.at, first, last)
    with pytest.raises(GuestFault, match="coalesced"):
        kernel.ring.drain()
