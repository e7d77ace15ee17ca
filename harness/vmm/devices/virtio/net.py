"""virtio-net (virtio 1.2, 5.1) by vhost-net: the kernel moves frames between the queues and a tap.

Neither a frame nor a kick reaches this process.
"""

from __future__ import annotations

import re
import struct
from fcntl import ioctl

from harness.kvm.errors import ConfigError, GuestFault

from ...memory import Memory
from .transport import F_EVENT_INDEX, F_INDIRECT, ActiveQueue, Backend
from .vhost import Vhost, iow

HEADER = 12  # bytes of struct virtio_net_hdr_v1 before each frame (virtio 1.2, 5.1.6)

_SET_BACKEND = iow(0x30, 8)
_TUNSETOFFLOAD = 0x4004_54D0
_QUEUES = 2  # receive, transmit; there is no control queue
_LINK_UP = 1

_F_CSUM, _F_GUEST_CSUM, F_MAC, _F_MRG_RXBUF, _F_STATUS = (1 << bit for bit in (0, 1, 5, 15, 16))
_F_GUEST_TSO4, _F_GUEST_TSO6, _F_GUEST_ECN = (1 << bit for bit in (7, 8, 9))
_F_HOST_TSO4, _F_HOST_TSO6, _F_HOST_ECN = (1 << bit for bit in (11, 12, 13))
_SENDS = _F_CSUM | _F_HOST_TSO4 | _F_HOST_TSO6 | _F_HOST_ECN
# the guest's offload features, and the same for a tap: TUN_F_CSUM, TSO4, TSO6, TSO_ECN
_OFFLOADS = {_F_GUEST_CSUM: 1, _F_GUEST_TSO4: 2, _F_GUEST_TSO6: 4, _F_GUEST_ECN: 8}


class Net(Backend):
    """A network device with a tap on a bridge."""

    name = "vhost-net"
    device_type = 1
    class_code = 0x020000
    queues = _QUEUES
    data_plane = "in kernel"

    def __init__(self, mac: str, tap: int) -> None:
        """tap: its descriptor. Raises ConfigError without /dev/vhost-net."""
        self.config = mac_bytes(mac) + struct.pack("<H", _LINK_UP)
        self._tap = tap
        self._vhost = Vhost(self.name)
        ring = self._vhost.features() & (F_INDIRECT | F_EVENT_INDEX | _F_MRG_RXBUF)
        self.features = ring | _SENDS | sum(_OFFLOADS) | F_MAC | _F_STATUS
        self._active: list[ActiveQueue] = []

    def restore_config(self, config: bytes) -> bool:
        return True  # a clone has another MAC address

    def start(self, memory: Memory, queues: list[ActiveQueue], features: int) -> None:
        if len(queues) != _QUEUES:
            raise GuestFault("virtio-net started without both its queues")
        try:
            # the tap may pass on what the guest can handle
            offloads = sum(flag for feature, flag in _OFFLOADS.items() if features & feature)
            ioctl(self._tap, _TUNSETOFFLOAD, offloads)
            self._vhost.start(memory, queues, features)
            self._active = queues
            self._set_backend(self._tap)
        except OSError as error:
            raise GuestFault(f"vhost-net refused the guest's queues: {error.strerror}") from error

    def _set_backend(self, fd: int) -> None:
        for queue in self._active:
            ioctl(self._vhost.fd, _SET_BACKEND, struct.pack("<Ii", queue.number, fd))

    def poll(self) -> None:
        self._vhost.check()

    def stop(self) -> dict[int, int]:
        self._set_backend(-1)  # waits for frames in flight
        return {queue.number: self._vhost.base(queue.number) for queue in self._active}


def mac_bytes(text: str) -> bytes:
    """The six bytes of "02:00:00:00:00:01". Raises ConfigError for other or multicast addresses."""
    if not re.fullmatch(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}", text, re.IGNORECASE | re.ASCII):
        raise ConfigError(
            f"{text!r:.80} is not a unicast MAC address", "write it as 02:00:00:00:00:01"
        )
    return bytes.fromhex(text.replace(":", ""))
