"""Guest memory: anonymous host memory behind memslots, reached by guest-physical address (GPA).

Every access by a device goes through `Memory.view`, which checks the whole range.
"""

from __future__ import annotations

import ctypes
import mmap

from .errors import ConfigError, GuestFault

# Below 4 GiB the last gigabyte belongs to devices: PCI windows, IOAPIC, local APIC.
GAP_START = 0xC000_0000
GAP_END = 0x1_0000_0000
_HUGE = 2 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t) + (ctypes.c_int,) * 3 + (ctypes.c_long,)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MAP_FAILED = ctypes.c_void_p(-1).value
_MAP_NORESERVE = 0x4000


class Region:
    """One contiguous piece of guest memory: `gpa` on, `size` bytes, at `hva` in this process."""

    def __init__(self, gpa: int, size: int) -> None:
        self.gpa = gpa
        self.size = size
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        prot = mmap.PROT_READ | mmap.PROT_WRITE
        raw = _libc.mmap(None, size + _HUGE, prot, flags, -1, 0)
        if raw == _MAP_FAILED:
            raise ConfigError(
                f"cannot map {size >> 20} MiB of guest memory", "give the guest less memory"
            )
        # GPA and host address agree modulo 2 MiB, so that one nested page-table entry can map a
        # huge page: a guest's boot then takes tens of page faults, not tens of thousands.
        self.hva = (raw + _HUGE - 1) & ~(_HUGE - 1)
        _libc.madvise(self.hva, size, mmap.MADV_HUGEPAGE)
        self.bytes = memoryview((ctypes.c_ubyte * size).from_address(self.hva)).cast("B")


class Memory:
    """All memory of a guest."""

    def __init__(self, size: int) -> None:
        """size: bytes, a multiple of 4096."""
        self.size = size
        low = min(size, GAP_START)
        self.regions = [Region(0, low)]
        if size > low:
            self.regions.append(Region(GAP_END, size - low))

    def _region(self, gpa: int, length: int) -> Region:
        for region in self.regions:
            if region.gpa <= gpa and gpa + length <= region.gpa + region.size:
                return region
        raise GuestFault(f"address {gpa:#x}+{length:#x} is outside guest memory")

    def view(self, gpa: int, length: int) -> memoryview:
        """The bytes at [gpa, gpa + length), writable. Raises GuestFault outside of memory."""
        region = self._region(gpa, length)
        return region.bytes[gpa - region.gpa : gpa - region.gpa + length]

    def hva(self, gpa: int, length: int) -> int:
        """The host address of a range, for the kernel (vhost). Raises GuestFault."""
        region = self._region(gpa, length)
        return int(region.hva + gpa - region.gpa)

    def write(self, gpa: int, data: bytes) -> None:
        self.view(gpa, len(data))[:] = data
