"""A device whose queues the kernel serves: the ioctls of linux/vhost.h."""

from __future__ import annotations

import os
import struct
from fcntl import ioctl

from ...errors import ConfigError
from ...memory import Memory
from .transport import StartedQueue

VHOST_VIRTIO = 0xAF


def iow(nr: int, size: int) -> int:
    return (1 << 30) | (size << 16) | (VHOST_VIRTIO << 8) | nr


_GET_FEATURES = (2 << 30) | (8 << 16) | (VHOST_VIRTIO << 8)
_SET_FEATURES = iow(0x00, 8)
_SET_OWNER = (VHOST_VIRTIO << 8) | 0x01
_SET_MEM_TABLE = iow(0x03, 8)
_SET_VRING_NUM = iow(0x10, 8)
_SET_VRING_ADDR = iow(0x11, 40)
_SET_VRING_BASE = iow(0x12, 8)
_SET_VRING_KICK = iow(0x20, 8)
_SET_VRING_CALL = iow(0x21, 8)

_VRING_STATE = struct.Struct("<II")  # index, number
_VRING_FILE = struct.Struct("<Ii")  # index, fd
_VRING_ADDRESS = struct.Struct("<IIQQQQ")  # index, flags, descriptors, used, available, log
_MEMORY_HEADER = struct.Struct("<II")  # nregions, padding
_MEMORY_REGION = struct.Struct("<QQQQ")  # guest_phys_addr, memory_size, userspace_addr, flags


class Vhost:
    """An open vhost device."""

    def __init__(self, path: str, mend: str) -> None:
        """Raises ConfigError when the device is not there or not ours to open."""
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}", mend) from error
        ioctl(self.fd, _SET_OWNER)

    def features(self) -> int:
        buffer = bytearray(8)
        ioctl(self.fd, _GET_FEATURES, buffer)
        return int.from_bytes(buffer, "little")

    def set_features(self, features: int) -> None:
        ioctl(self.fd, _SET_FEATURES, struct.pack("<Q", features))

    def set_memory(self, memory: Memory) -> None:
        table = _MEMORY_HEADER.pack(len(memory.regions), 0)
        for region in memory.regions:
            table += _MEMORY_REGION.pack(region.gpa, region.size, region.hva, 0)
        ioctl(self.fd, _SET_MEM_TABLE, table)

    def set_queue(self, number: int, queue: StartedQueue, memory: Memory) -> None:
        """Hand a ring to the kernel: `number` is the vhost device's own count of it."""
        table, available, used = queue.ring.lengths()
        ring = queue.ring
        ioctl(self.fd, _SET_VRING_NUM, _VRING_STATE.pack(number, ring.size))
        ioctl(self.fd, _SET_VRING_BASE, _VRING_STATE.pack(number, 0))
        address = _VRING_ADDRESS.pack(
            number,
            0,
            memory.hva(ring.descriptors, table),
            memory.hva(ring.used, used),
            memory.hva(ring.available, available),
            0,
        )
        ioctl(self.fd, _SET_VRING_ADDR, address)
        ioctl(self.fd, _SET_VRING_CALL, _VRING_FILE.pack(number, queue.call))
        ioctl(self.fd, _SET_VRING_KICK, _VRING_FILE.pack(number, queue.kick))
