"""The ring of coalesced writes (api.rst 4.116): port writes that KVM queues without an exit.

The serial port's transmit register and PCI's address register are written far more often than
anything needs to happen at once; the ring is emptied before any other access is served, so devices
see every write in order.
"""

from __future__ import annotations

import mmap
import struct
from typing import Callable

from .errors import GuestFault
from .structs import COALESCED_ENTRY

_HEADER = struct.Struct("<II")  # first (ours), last (the kernel's)
_ENTRIES = (mmap.PAGESIZE - _HEADER.size) // COALESCED_ENTRY.size


class CoalescedRing:
    """The ring page that every vCPU's mapping shares. Call `drain` with the buses' lock held."""

    def __init__(self, run: mmap.mmap, page: int, write: Callable[[int, int, int], None]) -> None:
        """run: a vCPU's mapping; page: KVM_CAP_COALESCED_MMIO, its page offset there; write: gets
        each write's port, size and value."""
        self._run = run
        self._at = page * mmap.PAGESIZE
        # first and last, a load or store each: pack_into() zeroes first, and the kernel looks
        # meanwhile
        self.indices = memoryview(run).cast("I")[self._at // 4 : self._at // 4 + 2]
        self._write = write

    def drain(self) -> None:
        first, last = self.indices
        if first == last:
            return
        if first >= _ENTRIES or last >= _ENTRIES:
            raise GuestFault("the ring of coalesced writes has an impossible index")
        while first != last:
            entry_at = self._at + _HEADER.size + first * COALESCED_ENTRY.size
            address, length, _, data = COALESCED_ENTRY.unpack_from(self._run, entry_at)
            self._write(address, length, int.from_bytes(data[:length], "little"))
            first = (first + 1) % _ENTRIES
            # give the place back before the next write, so that the kernel never finds it full
            self.indices[0] = first
            last = self.indices[1]
