"""virtio-pmem (virtio 1.2, 5.19): a file as read-only memory of the guest.

The file is mapped: guests of one image share its pages in the host's page cache. The request queue
has flushes only, and there is nothing to flush.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Callable

from harness.kvm.errors import ConfigError, GuestFault
from harness.kvm.vm import Vm

from ...memory import GAP_END, GAP_START, Memory, Region
from .block import file_size
from .queue import Chain
from .userspace import UserspaceDevice

_SECTION = 128 << 20  # the unit of Linux' memory hotplug (SECTION_SIZE_BITS)
_SUBSECTION = 2 << 20  # a device's memory must be a multiple of it
_FLUSH = 0
_OK, _ERROR = 0, 1


class Pmem(UserspaceDevice):
    """The file's bytes above the guest's RAM, padded with zeros to 2 MiB.

    A guest's write is an MMIO exit at an unclaimed address, so it is dropped.
    """

    name = "virtio-pmem"
    device_type = 27
    class_code = 0x058000
    queues = 1

    def __init__(
        self, vm: Vm, memory: Memory, path: str, end_machine: Callable[[BaseException], None]
    ) -> None:
        """Map the file into guest memory. Raises ConfigError."""
        super().__init__(end_machine)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            size = file_size(fd)
        except OSError as error:
            raise ConfigError(f"pmem {path}: {error.strerror}", "check the path") from error
        if not size:
            raise ConfigError(f"pmem {path} is empty", "build it again")
        room = -(-size // _SUBSECTION) * _SUBSECTION
        start = -(-memory.end // _SECTION) * _SECTION
        if start + room > GAP_START:
            start = max(start, GAP_END)
        if (start + room).bit_length() > vm.kvm.physical_bits():
            raise ConfigError(f"pmem {path} does not fit above guest memory", "request less memory")
        # Private, as a region is writable and the file is read-only. As nothing writes the mapping,
        # its pages remain those of the page cache.
        self.region = Region(start, room, fd, 0, mmap.MAP_PRIVATE, length=size)
        vm.add_memory(start, room, self.region.hva, readonly=True)
        self.config = struct.pack("<QQ", start, room)

    def _handle_request(self, number: int, chain: Chain) -> int:
        kind = b"".join(bytes(view[:4]) for view in chain.readable)[:4]
        if len(kind) < 4 or not chain.writable or len(chain.writable[0]) < 4:
            raise GuestFault("a virtio-pmem request without type or status")
        is_flush = int.from_bytes(kind, "little") == _FLUSH
        chain.writable[0][:4] = (_OK if is_flush else _ERROR).to_bytes(4, "little")
        return 4
