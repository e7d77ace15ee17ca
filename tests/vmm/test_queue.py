"""The device side of a split virtqueue, tested with a driver side of these tests."""

from __future__ import annotations

import mmap
import os
import struct
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.kvm.errors import GuestFault
from harness.vmm.devices.virtio.queue import MAX_SIZE, Chain, Queue, Ring
from harness.vmm.memory import Memory

SIZE = 8
TABLE, AVAILABLE, USED, DATA = 0x1000, 0x2000, 0x3000, 0x10000
RING = Ring(SIZE, TABLE, AVAILABLE, USED)
NEXT, WRITE, INDIRECT = 1, 2, 4


class Driver:
    """The driver side."""

    def __init__(self, event_index: bool = False) -> None:
        self.memory = Memory(1 << 20)
        self.queue = Queue(self.memory, RING, event_index)
        self.index = 0

    def describe(
        self, at: int, address: int, length: int, flags: int = 0, following: int = 0
    ) -> None:
        self.memory.write(TABLE + 16 * at, struct.pack("<QIHH", address, length, flags, following))

    def offer(self, head: int) -> None:
        self.memory.write(AVAILABLE + 4 + 2 * (self.index % SIZE), struct.pack("<H", head))
        self.index = (self.index + 1) & 0xFFFF
        self.memory.write(AVAILABLE + 2, struct.pack("<H", self.index))

    def used(self) -> tuple[int, list[tuple[int, int]]]:
        (index,) = struct.unpack("<H", self.memory.view(USED + 2, 2))
        ring = struct.iter_unpack("<II", self.memory.view(USED + 4, 8 * SIZE))
        return index, list(ring)


@pytest.mark.parametrize("event_index", [False, True])
def test_requests_keep_order_while_indices_wrap(event_index: bool) -> None:
    driver = Driver(event_index)
    for turn in range(70_000):  # more than the 16 bits of an index
        head = turn % SIZE
        driver.describe(head, DATA + 16 * head, 16)
        driver.offer(head)
        (chain,) = driver.queue.pop()
        assert chain.head == head
        driver.queue.push(chain, 3)
    index, ring = driver.used()
    assert index == 70_000 & 0xFFFF
    assert ring[(70_000 - 1) % SIZE] == ((70_000 - 1) % SIZE, 3)


def test_chain_has_readable_then_writable_buffers() -> None:
    driver = Driver()
    driver.describe(0, DATA, 4, NEXT, 5)
    driver.describe(5, DATA + 4, 8, NEXT | WRITE, 2)
    driver.describe(2, DATA + 12, 1, WRITE)
    driver.offer(0)
    (chain,) = driver.queue.pop()
    assert [len(view) for view in chain.readable] == [4]
    assert [len(view) for view in chain.writable] == [8, 1]
    chain.writable[0][:] = b"12345678"
    assert bytes(driver.memory.view(DATA + 4, 8)) == b"12345678"


def test_indirect_table_is_followed() -> None:
    driver = Driver()
    entries = struct.pack("<QIHH", DATA, 4, NEXT, 1) + struct.pack("<QIHH", DATA + 64, 2, WRITE, 0)
    driver.memory.write(0x8000, entries)
    driver.describe(3, 0x8000, len(entries), INDIRECT)
    driver.offer(3)
    (chain,) = driver.queue.pop()
    assert (chain.head, len(chain.readable), len(chain.writable)) == (3, 1, 1)


def test_flag_suppresses_interrupts() -> None:
    driver = Driver()
    driver.describe(0, DATA, 4)
    driver.offer(0)
    (chain,) = driver.queue.pop()
    driver.memory.write(AVAILABLE, struct.pack("<H", 1))
    assert not driver.queue.push(chain, 0)


def test_event_index_requests_one_interrupt() -> None:
    driver = Driver(event_index=True)
    driver.memory.write(AVAILABLE + 4 + 2 * SIZE, struct.pack("<H", 2))  # interrupt after the third
    for head in range(4):
        driver.describe(head, DATA, 4)
        driver.offer(head)
    interrupts = [driver.queue.push(chain, 0) for chain in driver.queue.pop()]
    assert interrupts == [False, False, True, False]
    (armed,) = struct.unpack("<H", driver.memory.view(USED + 4 + 8 * SIZE, 2))
    assert armed == 4


@pytest.mark.parametrize(
    ("used", "event", "suppressed"),
    [
        (0, 0, True),  # the driver waits for the first
        (3, 3, True),
        (3, 2, False),  # the third was used, and the driver waits for it
        (2, 2 + SIZE, True),  # the latest valid event
        (2, 2 + SIZE + 1, False),  # invalid: interrupt to be safe
        (0xFFFF, 1, True),
        (1, 0xFFFF, False),
    ],
)
def test_interrupt_suppressed(used: int, event: int, suppressed: bool) -> None:
    memory = Memory(1 << 20)
    memory.write(USED + 2, struct.pack("<H", used))
    memory.write(AVAILABLE + 4 + 2 * SIZE, struct.pack("<H", event))
    assert RING.interrupt_suppressed(memory) is suppressed


def test_posted_buffers() -> None:
    memory = Memory(1 << 20)
    memory.write(AVAILABLE + 2, struct.pack("<H", 1))
    memory.write(USED + 2, struct.pack("<H", 0xFFFE))
    assert RING.posted_buffers(memory) == 3


@pytest.mark.parametrize(
    ("descriptors", "what"),
    [
        ([(0, 1 << 40, 4, 0, 0)], "outside guest memory"),
        ([(0, DATA, 0xFFFFFFFF, 0, 0)], "outside guest memory"),
        ([(0, DATA, 4, NEXT, SIZE)], "descriptor index"),
        ([(0, DATA, 4, NEXT, 0)], "loop"),
        ([(0, DATA, 4, WRITE | NEXT, 1), (1, DATA, 4, 0, 0)], "readable descriptor follows"),
        ([(0, DATA, 0, INDIRECT, 0)], "indirect"),
        ([(0, DATA, 17, INDIRECT, 0)], "indirect"),
        ([(0, DATA, 16 * (MAX_SIZE + 1), INDIRECT, 0)], "indirect"),
        ([(0, DATA, 16, INDIRECT | NEXT, 0)], "indirect"),
    ],
)
def test_malformed_chain_raises_guest_fault(
    descriptors: list[tuple[int, int, int, int, int]], what: str
) -> None:
    driver = Driver()
    for descriptor in descriptors:
        driver.describe(*descriptor)
    driver.offer(0)
    with pytest.raises(GuestFault, match=what):
        list(driver.queue.pop())


def test_nested_indirect_table_raises_guest_fault() -> None:
    driver = Driver()
    driver.memory.write(0x8000, struct.pack("<QIHH", 0x8000, 16, INDIRECT, 0))
    driver.describe(0, 0x8000, 16, INDIRECT)
    driver.offer(0)
    with pytest.raises(GuestFault, match="indirect"):
        list(driver.queue.pop())


def test_head_outside_the_table_raises_guest_fault() -> None:
    driver = Driver()
    driver.offer(SIZE)
    with pytest.raises(GuestFault, match="descriptor index"):
        list(driver.queue.pop())


def test_index_beyond_the_ring_raises_guest_fault() -> None:
    driver = Driver()
    driver.memory.write(AVAILABLE + 2, struct.pack("<H", SIZE + 1))
    with pytest.raises(GuestFault, match="requests in 8 entries"):
        list(driver.queue.pop())


@pytest.mark.parametrize(
    "ring",
    [
        Ring(0, TABLE, AVAILABLE, USED),
        Ring(3, TABLE, AVAILABLE, USED),
        Ring(2 * MAX_SIZE, TABLE, AVAILABLE, USED),
        Ring(SIZE, TABLE + 8, AVAILABLE, USED),
        Ring(SIZE, TABLE, AVAILABLE + 1, USED),
        Ring(SIZE, TABLE, AVAILABLE, USED + 2),
        Ring(SIZE, (1 << 20) - 16, AVAILABLE, USED),
        Ring(SIZE, TABLE, 1 << 63, USED),
    ],
)
def test_invalid_ring_raises_guest_fault(ring: Ring) -> None:
    with pytest.raises(GuestFault):
        Queue(Memory(1 << 20), ring, event_index=False)


@settings(max_examples=500, deadline=None)
@given(
    table=st.binary(min_size=16 * SIZE, max_size=16 * SIZE),
    available=st.binary(min_size=6 + 2 * SIZE, max_size=6 + 2 * SIZE),
    event_index=st.booleans(),
)
def test_arbitrary_ring_contents_are_handled_or_raise_guest_fault(
    table: bytes, available: bytes, event_index: bool
) -> None:
    """No other exception, no hang, and no view outside guest memory."""
    driver = Driver(event_index)
    driver.memory.write(TABLE, table)
    driver.memory.write(AVAILABLE, available)
    try:
        for count, chain in enumerate(driver.queue.pop()):
            assert sum(map(len, chain.readable + chain.writable)) <= MAX_SIZE << 20
            driver.queue.push(chain, 0)
            assert count < SIZE
    except GuestFault:
        pass


class SharedMemory:
    """Memory that another process shares, like a vCPU on another CPU."""

    def __init__(self) -> None:
        self._bytes = memoryview(mmap.mmap(-1, 1 << 16))

    def view(self, gpa: int, length: int) -> memoryview:
        return self._bytes[gpa : gpa + length]


def test_concurrent_reader_never_sees_a_torn_index() -> None:
    pushes = 30_000  # fewer than 2^16: the index does not wrap, so it only grows
    memory = SharedMemory()
    for _ in range(3):
        queue = Queue(cast(Memory, memory), RING, event_index=True)
        index = memory.view(USED + 2, 2).cast("H")
        index[0] = 0
        device = os.fork()
        if device == 0:
            for _ in range(pushes):
                queue.push(Chain(0, [], []), 0)
            os._exit(0)
        last, backwards = 0, 0
        while os.waitpid(device, os.WNOHANG)[0] == 0:
            for _ in range(1000):
                now = index[0]
                backwards += now < last
                last = now
        assert backwards == 0
        assert index[0] == pushes
