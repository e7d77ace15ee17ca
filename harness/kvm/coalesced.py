"""The ring of coalesced writes (api.rst 4.116): port writes that KVM queues without an exit.

It suits registers that are written often and without an immediate effect: the serial port's
transmit register and PCI's address register. The ring is drained before any other access, so
devices see all writes in order.
"""

from __future__ import annotations

import mmap
import struct
from typing import Callable

from .errors import GuestFault
from .structs import COALESCED_ENTRY

_HEADER = struct.Struct("<II")  # first (written here), last (written by the kernel)
_ENTRIES = (mmap.PAGESIZE - _HEADER.size) // COALESCED_ENTRY.size


class CoalescedRing:
    """The ring's page, which all vCPUs' mappings share.

    indices: first and last; the ring is empty if they are equal.
    """

    def __init__(self, run: mmap.mmap, page: int, write: Callable[[int, int, int], None]) -> None:
        """run: a vCPU's mapping. page: the ring's page in it (KVM_CAP_COALESCED_MMIO). write:
        called with each write's port, size and value."""
        self._run = run
        self._at = page * mmap.PAGESIZE
        # words, so that each index is one load or store: pack_into() first writes zeroes, and the
        # kernel may read them
        self.indices = memoryview(run).cast("I")[self._at // 4 : self._at // 4 + 2]
        self._write = write

    def drain(self) -> None:
        """Handle all queued writes. Call with the buses' lock held. Raises GuestFault."""
        first, last = self.indices
        if first == last:
            return
        if first >= _ENTRIES or last >= _ENTRIES:
            raise GuestFault("the ring of coalesced writes has an index outside the ring")
        while first != last:
            entry_at = self._at + _HEADER.size + first * COALESCED_ENTRY.size
            address, length, _, data = COALESCED_ENTRY.unpack_from(self._run, entry_at)
            self._write(address, length, int.from_bytes(data[:length], "little"))
            first = (first + 1) % _ENTRIES
            # free the entry before the next write, so that the kernel does not find a full ring
            self.indices[0] = first
            last = self.indices[1]
