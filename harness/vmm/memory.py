"""Guest memory: host memory behind memslots, addressed by guest-physical address (GPA).

It is private to this process, or a memory file that another process (a vhost-user daemon) maps,
too. Every access by a device goes through `Memory.view`, which checks the range.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Sequence

from harness.kvm import libc
from harness.kvm.errors import ConfigError, GuestFault

# The last gigabyte below 4 GiB belongs to devices: PCI windows, IOAPIC, local APIC.
GAP_START = 0xC000_0000
GAP_END = 0x1_0000_0000
PAGE = 4096
_HUGE = 2 << 20

_MAP_NORESERVE = 0x4000
_MADV_POPULATE_WRITE = 23  # Linux 5.14
_MAP_FIXED = 0x10


class Region:
    """One contiguous part of guest memory: `size` bytes from `gpa` on, at `hva` in this process.

    fd, offset: the file behind it that other processes may map, too; fd is -1 for none.
    """

    def __init__(
        self,
        gpa: int,
        size: int,
        fd: int = -1,
        offset: int = 0,
        flags: int = 0,
        *,
        length: int | None = None,
    ) -> None:
        """flags: MAP_SHARED or MAP_PRIVATE for the file, 0 for anonymous memory. length: the file's
        bytes if they are fewer than `size`; the rest is zero. Raises ConfigError."""
        self.gpa = gpa
        self.size = size
        self.fd = -1 if flags & mmap.MAP_PRIVATE else fd
        self.offset = offset
        self._discard_advice = mmap.MADV_REMOVE if flags & mmap.MAP_SHARED else mmap.MADV_DONTNEED
        # GPA and HVA are equal modulo 2 MiB, so that one nested page-table entry can map a huge
        # page: a guest's boot then causes tens of page faults, not tens of thousands.
        anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        raw = _map(None, size + _HUGE, anonymous)
        self.hva = (raw + _HUGE - 1) & ~(_HUGE - 1)
        if fd >= 0:
            _map(self.hva, length or size, flags | _MAP_FIXED | _MAP_NORESERVE, fd, offset)
        with contextlib.suppress(OSError):  # a kernel without huge pages
            libc.madvise(self.hva, size, mmap.MADV_HUGEPAGE)
        self.bytes = memoryview((ctypes.c_ubyte * size).from_address(self.hva)).cast("B")

    def discard(self, start: int, length: int) -> bool:
        """Free the host memory behind `length` bytes at the host address `start`, both multiples of
        the page size. False if the host refuses: part of a hugetlbfs page, or locked."""
        try:
            libc.madvise(start, length, self._discard_advice)
        except OSError:
            return False
        return True


def _map(at: int | None, size: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    prot = mmap.PROT_READ | mmap.PROT_WRITE
    try:
        return libc.mmap(at, size, prot, flags, fd=fd, offset=offset)
    except OSError as error:
        cause = f"cannot map {size >> 20} MiB of guest memory: {error.strerror}"
        raise ConfigError(cause, "request less memory") from error


class Memory:
    """All memory of a guest. size: in bytes. end: the first GPA above it."""

    def __init__(
        self,
        size: int,
        shared_file: int = -1,
        huge: bool = False,
        mergeable: bool = False,
        file: int = -1,
    ) -> None:
        """size: bytes, a multiple of 4096. shared_file: an empty memory file that other processes
        map, too. huge: from the host's reserved huge pages. mergeable: let KSM merge equal private
        pages. file: a snapshot's memory, whose pages are shared with other clones until they are
        written, and private then. Raises ConfigError."""
        self.size = size
        fd, flags = file, mmap.MAP_PRIVATE if file >= 0 else 0
        if huge or shared_file >= 0:
            fd, flags = _huge_file(size) if huge else shared_file, mmap.MAP_SHARED
            if not huge:
                os.ftruncate(fd, size)
        low = min(size, GAP_START)
        self.regions = [Region(0, low, fd, 0, flags)]
        if size > low:
            self.regions.append(Region(GAP_END, size - low, fd, low, flags))
        self.end = self.regions[-1].gpa + self.regions[-1].size
        if mergeable:
            self._enable_merging()

    def _enable_merging(self) -> None:
        for region in self.regions:
            if region.fd >= 0:
                raise ConfigError(
                    "KSM does not merge memory that is shared or from reserved huge pages",
                    "do not combine mergeable with hugepages or shared memory",
                )
            try:
                libc.madvise(region.hva, region.size, mmap.MADV_MERGEABLE)
            except OSError as error:
                cause = f"mergeable memory: {error.strerror}"
                raise ConfigError(cause, "use a host kernel with CONFIG_KSM") from error

    def _region(self, gpa: int, length: int) -> Region:
        for region in self.regions:
            if region.gpa <= gpa and gpa + length <= region.gpa + region.size:
                return region
        raise GuestFault(f"address {gpa:#x}+{length:#x} is outside guest memory")

    def view(self, gpa: int, length: int) -> memoryview:
        """The writable bytes [gpa, gpa + length). Raises GuestFault outside guest memory."""
        region = self._region(gpa, length)
        return region.bytes[gpa - region.gpa : gpa - region.gpa + length]

    def hva(self, gpa: int, length: int) -> int:
        """The host address of a range, for vhost. Raises GuestFault outside guest memory."""
        region = self._region(gpa, length)
        return int(region.hva + gpa - region.gpa)

    def discard(self, view: memoryview) -> int:
        """Free the host memory behind the whole pages in a view of guest memory. They then read as
        zero, or as in the file of a private mapping. Returns the bytes that were freed."""
        if not len(view):
            return 0
        at = ctypes.addressof(ctypes.c_ubyte.from_buffer(view))
        start, end = -(-at // PAGE) * PAGE, (at + len(view)) // PAGE * PAGE
        region = next(one for one in self.regions if one.hva <= at < one.hva + one.size)
        return end - start if start < end and region.discard(start, end - start) else 0

    def prefault(self, pages: Sequence[int]) -> None:
        """Copy pages of a private file mapping before the guest writes them.

        pages: runs of the file's pages: first page, count, first page, count, and so on. A page
        that the kernel does not copy now is copied at its first write. Raises GuestFault outside
        guest memory.
        """
        for first, count in zip(pages[::2], pages[1::2]):
            gpa = first * PAGE
            gpa += GAP_END - GAP_START if gpa >= GAP_START else 0
            address = self.hva(gpa, count * PAGE)
            with contextlib.suppress(OSError):
                libc.madvise(address, count * PAGE, _MADV_POPULATE_WRITE)

    def unmap(self, gpa: int) -> None:
        """Make the kernel drop the nested mapping of a page, not the page. Raises GuestFault."""
        # A change of protection does it. Read-only, as another vCPU may access the page.
        address = self.hva(gpa, PAGE)
        libc.mprotect(address, PAGE, mmap.PROT_READ)
        libc.mprotect(address, PAGE, mmap.PROT_READ | mmap.PROT_WRITE)

    def write(self, gpa: int, data: bytes) -> None:
        """Write bytes at a GPA. Raises GuestFault outside guest memory."""
        self.view(gpa, len(data))[:] = data


def create_memory_file() -> int:
    """The descriptor of an empty memfd."""
    return os.memfd_create("guest", os.MFD_CLOEXEC)


def _huge_file(size: int) -> int:
    """A memfd of the host's reserved 2 MiB pages. Raises ConfigError if too few are free."""
    try:
        fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_HUGETLB | os.MFD_HUGE_2MB)
        os.ftruncate(fd, size)
        # A shared mapping reserves the pages, and the file keeps them when the mapping is gone. A
        # page that is missing when the guest touches it would end the guest.
        mmap.mmap(fd, size).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no huge pages for {size >> 20} MiB of guest memory: {error}",
            "request an even number of MiB, and reserve pages on the host: sysctl vm.nr_hugepages",
        ) from error
    return fd
