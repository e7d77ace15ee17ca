"""vhost: a device whose queues the kernel processes. Ioctls of linux/vhost.h."""

from __future__ import annotations

import os
import struct
from fcntl import ioctl
from functools import partial

from harness.kvm import ioctl_encoding
from harness.kvm.errors import ConfigError, GuestFault
from harness.kvm.vm import eventfd

from ...memory import Memory
from .queue import Ring
from .transport import ActiveQueue

VHOST_VIRTIO = 0xAF
iow = partial(ioctl_encoding.iow, VHOST_VIRTIO)

_GET_FEATURES = ioctl_encoding.ior(VHOST_VIRTIO, 0x00, 8)
_SET_FEATURES = iow(0x00, 8)
_SET_OWNER = ioctl_encoding.io(VHOST_VIRTIO, 0x01)
_SET_MEM_TABLE = iow(0x03, 8)
_SET_VRING_NUM = iow(0x10, 8)
_SET_VRING_ADDR = iow(0x11, 40)
_SET_VRING_BASE = iow(0x12, 8)
_GET_VRING_BASE = ioctl_encoding.iowr(VHOST_VIRTIO, 0x12, 8)
_SET_VRING_KICK = iow(0x20, 8)
_SET_VRING_CALL = iow(0x21, 8)
_SET_VRING_ERR = iow(0x22, 8)

VRING_STATE = struct.Struct("<II")  # index, number
VRING_FILE = struct.Struct("<Ii")  # index, fd
VRING_ADDRESS = struct.Struct("<IIQQQQ")  # index, flags, descriptors, used, available, log
MEMORY_HEADER = struct.Struct("<II")  # nregions, padding
MEMORY_REGION = struct.Struct("<QQQQ")  # guest_phys_addr, memory_size, userspace_addr, flags


def vring_address(number: int, ring: Ring, memory: Memory) -> bytes:
    """struct vhost_vring_addr: a ring's addresses in this process. Raises GuestFault."""
    table, available, used = ring.lengths()
    return VRING_ADDRESS.pack(
        number,
        0,
        memory.hva(ring.descriptors, table),
        memory.hva(ring.used, used),
        memory.hva(ring.available, available),
        0,
    )


def open_vhost(name: str) -> int:
    """The descriptor of a new vhost device: "vhost-net" or "vhost-vsock". Raises ConfigError."""
    path = f"/dev/{name}"
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        hint = f"load the module {name.replace('-', '_')}, or grant the user access to {path}"
        raise ConfigError(f"{path}: {error.strerror}", hint) from error


class Vhost:
    """An open vhost device."""

    def __init__(self, name: str) -> None:
        """Raises ConfigError if the device cannot be opened."""
        self.name = name
        self.fd = open_vhost(name)
        self._errors = eventfd()
        ioctl(self.fd, _SET_OWNER)

    def features(self) -> int:
        """The features that the kernel offers."""
        buffer = bytearray(8)
        ioctl(self.fd, _GET_FEATURES, buffer)
        return int.from_bytes(buffer, "little")

    def set_features(self, features: int) -> None:
        """Set the features that the driver has accepted."""
        ioctl(self.fd, _SET_FEATURES, struct.pack("<Q", features))

    def set_memory(self, memory: Memory) -> None:
        """Tell the kernel where guest memory lies in this process."""
        table = MEMORY_HEADER.pack(len(memory.regions), 0)
        for region in memory.regions:
            table += MEMORY_REGION.pack(region.gpa, region.size, region.hva, 0)
        ioctl(self.fd, _SET_MEM_TABLE, table)

    def start(self, memory: Memory, queues: list[ActiveQueue], features: int) -> None:
        """Hand over memory and rings. Each device then starts them by its own ioctl. Raises
        OSError."""
        self.set_features(features & self.features())
        self.set_memory(memory)
        for queue in queues:
            self.set_queue(queue.number, queue, memory)

    def check(self) -> None:
        """Raises GuestFault if the kernel found a malformed ring or a wrong address. The kernel
        then stops the queue and signals an eventfd."""
        try:
            os.read(self._errors, 8)
        except BlockingIOError:
            return
        raise GuestFault(f"{self.name}: the kernel refused the guest's ring")

    def set_queue(self, number: int, queue: ActiveQueue, memory: Memory) -> None:
        """Hand a ring to the kernel. number: the ring's index in the vhost device."""
        ioctl(self.fd, _SET_VRING_NUM, VRING_STATE.pack(number, queue.ring.size))
        ioctl(self.fd, _SET_VRING_BASE, VRING_STATE.pack(number, queue.base))
        ioctl(self.fd, _SET_VRING_ADDR, vring_address(number, queue.ring, memory))
        ioctl(self.fd, _SET_VRING_ERR, VRING_FILE.pack(number, self._errors))
        ioctl(self.fd, _SET_VRING_CALL, VRING_FILE.pack(number, queue.call))
        ioctl(self.fd, _SET_VRING_KICK, VRING_FILE.pack(number, queue.kick))

    def base(self, number: int) -> int:
        """The index at which a stopped ring would continue."""
        state = bytearray(VRING_STATE.pack(number, 0))
        ioctl(self.fd, _GET_VRING_BASE, state)
        return int(VRING_STATE.unpack(state)[1])
