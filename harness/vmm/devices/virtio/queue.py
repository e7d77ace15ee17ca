"""The split virtqueue, device side (virtio 1.2, 2.7), for backends that run in this process.

The guest is hostile: every index, length and address read from the ring is checked, and what no
correct driver writes raises GuestFault, which ends that guest.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

from harness.kvm.errors import GuestFault

from ...memory import Memory

MAX_SIZE = 256

_DESCRIPTOR = struct.Struct("<QIHH")  # address, length, flags, next
_USED_ELEMENT = struct.Struct("<II")  # id, length
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT = 1


class Chain(NamedTuple):
    """One request: buffers the device reads, then buffers it writes, as views of guest memory."""

    head: int
    readable: list[memoryview]
    writable: list[memoryview]


class Ring(NamedTuple):
    """Where a queue lies: sizes in entries, addresses guest-physical."""

    size: int
    descriptors: int
    available: int
    used: int

    def lengths(self) -> tuple[int, int, int]:
        """Bytes of descriptor table, available ring and used ring, event words included."""
        return 16 * self.size, 6 + 2 * self.size, 6 + 8 * self.size

    def check(self, memory: Memory) -> None:
        """Raises GuestFault if the ring is no ring: its size, its alignment, its place."""
        if not 0 < self.size <= MAX_SIZE or self.size & (self.size - 1):
            raise GuestFault(f"virtqueue size {self.size} is not a power of two up to {MAX_SIZE}")
        for address, length, alignment in zip(self[1:], self.lengths(), (16, 2, 4)):
            if address % alignment:
                raise GuestFault(f"virtqueue address {address:#x} is not {alignment}-aligned")
            memory.view(address, length)

    def interrupt_suppressed(self, memory: Memory) -> bool:
        """With event indices: whether the driver waits for a buffer to be used that is not yet, so
        that no interrupt is due (virtio 1.2, 2.7.7.1)."""
        event = self._word(memory, self.available + 4 + 2 * self.size)
        return (event - self._word(memory, self.used + 2)) & 0xFFFF <= self.size

    def posted_buffers(self, memory: Memory) -> int:
        """Buffers that the driver has made available and that were not used yet."""
        used = self._word(memory, self.used + 2)
        return (self._word(memory, self.available + 2) - used) & 0xFFFF

    @staticmethod
    def _word(memory: Memory, address: int) -> int:
        return int.from_bytes(memory.view(address, 2), "little")


class Queue:
    """A running queue: `pop` requests, `push` their completion.

    Indices and flags, which the guest reads and writes meanwhile, go through views of 16-bit words:
    one load or store each. struct's pack_into() zeroes the place before it writes.
    """

    def __init__(self, memory: Memory, ring: Ring, event_index: bool, base: int = 0) -> None:
        """base: the index at which to go on, for both rings: what was popped was completed."""
        ring.check(memory)
        table, available, used = ring.lengths()
        self._memory = memory
        self._size = ring.size
        self._event_index = event_index
        self._descriptors = memory.view(ring.descriptors, table)
        self._available = memory.view(ring.available, available).cast("H")
        self._used = memory.view(ring.used, used)
        self._used_words = self._used.cast("H")
        self._fence = threading.Lock()
        self._next_available = base
        self._next_used = base

    @property
    def base(self) -> int:
        """Where to go on after a stop: requests popped but not completed count as not popped."""
        return self._next_used

    @property
    def waiting(self) -> int:
        """Requests that the driver has made and that were not popped."""
        return int(self._available[1] - self._next_available) & 0xFFFF

    def pop(self) -> Iterator[Chain]:
        """Every request there is; leaves notifications armed when it ends."""
        while True:
            index = self._available[1]
            waiting = (index - self._next_available) & 0xFFFF
            if waiting > self._size:
                raise GuestFault(f"available index {index} is {waiting} ahead of {self._size}")
            if not waiting:
                if not self._event_index or not self._rearm(index):
                    return
                continue
            slot = self._next_available & (self._size - 1)
            head = self._available[2 + slot]
            self._next_available = (self._next_available + 1) & 0xFFFF
            yield self._chain(head)

    def _rearm(self, seen: int) -> bool:
        """Ask to be kicked for the next request; True if one slipped in meanwhile."""
        self._used_words[2 + 4 * self._size] = seen
        self._barrier()
        return self._available[1] != seen

    def _barrier(self) -> None:
        """A store is seen before the next load is done: x86 alone does not promise that, taking a
        lock does. Without it both sides could miss each other's news, and wait for ever."""
        with self._fence:
            pass

    def _chain(self, head: int) -> Chain:
        chain = Chain(head, [], [])
        table, size, index, indirect = self._descriptors, self._size, head, False
        for _ in range(MAX_SIZE + 1):
            if index >= size:
                raise GuestFault(f"descriptor index {index} is outside a table of {size}")
            address, length, flags, following = _DESCRIPTOR.unpack_from(table, 16 * index)
            if flags & _INDIRECT:
                if indirect or flags & _NEXT or length % 16 or not 0 < length <= 16 * MAX_SIZE:
                    raise GuestFault("malformed indirect descriptor")
                table, size, index = self._memory.view(address, length), length // 16, 0
                indirect = True
                continue
            if flags & _WRITE:
                chain.writable.append(self._memory.view(address, length))
            elif chain.writable:
                raise GuestFault("a readable descriptor follows a writable one")
            else:
                chain.readable.append(self._memory.view(address, length))
            if not flags & _NEXT:
                return chain
            index = following
        raise GuestFault("a descriptor chain has a loop")

    def push(self, chain: Chain, written: int) -> bool:
        """Complete a request; written: bytes. True if the guest wants an interrupt."""
        slot = self._next_used & (self._size - 1)
        _USED_ELEMENT.pack_into(self._used, 4 + 8 * slot, chain.head, written)
        old = self._next_used
        self._next_used = (old + 1) & 0xFFFF
        # x86 keeps stores in order, so the element is there before the index says so
        self._used_words[1] = self._next_used
        self._barrier()
        if not self._event_index:
            return not self._available[0] & _NO_INTERRUPT
        # asked at each completion, vring_need_event() (2.7.10) comes down to this
        return self._available[2 + self._size] == old
