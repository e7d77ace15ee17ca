"""The device side of the split virtqueue (virtio 1.2, 2.7), for backends in this process.

The guest is not trusted: every index, length and address from the ring is checked. Values that no
correct driver writes raise GuestFault, which ends the guest.
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
    """One request: buffers that the device reads, and buffers that it writes, in guest memory."""

    head: int
    readable: list[memoryview]
    writable: list[memoryview]


class Ring(NamedTuple):
    """A queue's place in guest memory. size: in entries. The addresses are guest-physical."""

    size: int
    descriptors: int
    available: int
    used: int

    def lengths(self) -> tuple[int, int, int]:
        """Bytes of the descriptor table, the available ring and the used ring, with event words."""
        return 16 * self.size, 6 + 2 * self.size, 6 + 8 * self.size

    def check(self, memory: Memory) -> None:
        """Raises GuestFault for a wrong size, a wrong alignment, or addresses outside memory."""
        if not 0 < self.size <= MAX_SIZE or self.size & (self.size - 1):
            raise GuestFault(f"virtqueue size {self.size} is not a power of two up to {MAX_SIZE}")
        for address, length, alignment in zip(self[1:], self.lengths(), (16, 2, 4)):
            if address % alignment:
                raise GuestFault(f"virtqueue address {address:#x} is not {alignment}-aligned")
            memory.view(address, length)

    def interrupt_suppressed(self, memory: Memory) -> bool:
        """Whether the driver wants no interrupt yet: its event index names a buffer that was not
        used yet (virtio 1.2, 2.7.7.1). For queues with event indices."""
        event = self._word(memory, self.available + 4 + 2 * self.size)
        return (event - self._word(memory, self.used + 2)) & 0xFFFF <= self.size

    def posted_buffers(self, memory: Memory) -> int:
        """The number of buffers that are available and were not used yet."""
        used = self._word(memory, self.used + 2)
        return (self._word(memory, self.available + 2) - used) & 0xFFFF

    @staticmethod
    def _word(memory: Memory, address: int) -> int:
        return int.from_bytes(memory.view(address, 2), "little")


class Queue:
    """A running queue: `pop` returns requests, `push` completes them.

    Indices and flags are accessed as 16-bit words, in one load or store each, as the guest accesses
    them at the same time. struct's pack_into() would first write zeroes.
    """

    def __init__(self, memory: Memory, ring: Ring, event_index: bool, base: int = 0) -> None:
        """base: the index to continue at, for both rings: all popped requests were completed."""
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
        """The index to continue at after a stop: requests in flight are popped again."""
        return self._next_used

    @property
    def pending(self) -> int:
        """The number of requests that were not popped yet."""
        return int(self._available[1] - self._next_available) & 0xFFFF

    def pop(self) -> Iterator[Chain]:
        """Pop every request, then arm notifications. Raises GuestFault."""
        while True:
            index = self._available[1]
            pending = (index - self._next_available) & 0xFFFF
            if pending > self._size:
                raise GuestFault(
                    f"available index {index} announces {pending} requests in {self._size} entries"
                )
            if not pending:
                if not self._event_index or not self._rearm(index):
                    return
                continue
            slot = self._next_available & (self._size - 1)
            head = self._available[2 + slot]
            self._next_available = (self._next_available + 1) & 0xFFFF
            yield self._chain(head)

    def _rearm(self, index: int) -> bool:
        """Request a kick for the next request. True if a request arrived in between."""
        self._used_words[2 + 4 * self._size] = index
        self._barrier()
        return self._available[1] != index

    def _barrier(self) -> None:
        """Order a store before the next load, which x86 does not do by itself. Without it, the
        driver and the device could both miss an update and wait without end."""
        with self._fence:  # taking a lock is a full barrier
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
        """Complete a request. written: bytes. True if the guest wants an interrupt."""
        slot = self._next_used & (self._size - 1)
        _USED_ELEMENT.pack_into(self._used, 4 + 8 * slot, chain.head, written)
        old = self._next_used
        self._next_used = (old + 1) & 0xFFFF
        # x86 keeps stores in order: the element is visible before the index
        self._used_words[1] = self._next_used
        self._barrier()
        if not self._event_index:
            return not self._available[0] & _NO_INTERRUPT
        # vring_need_event() (2.7.10), as it is called at each completion
        return self._available[2 + self._size] == old
