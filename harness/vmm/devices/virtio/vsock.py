"""virtio-vsock (virtio 1.2, 5.10) by vhost-vsock: sockets between host and guest, no addresses to
configure. The kernel serves both data queues; the event queue stays idle, as nothing migrates."""

from __future__ import annotations

import errno
import os
import random
import struct
from fcntl import ioctl

from ...errors import ConfigError, GuestFault
from ...memory import Memory
from .transport import F_EVENT_INDEX, F_INDIRECT, F_VERSION_1, StartedQueue
from .vhost import Vhost, iow

_SET_GUEST_CID = iow(0x60, 8)
_SET_RUNNING = iow(0x61, 4)
_DATA_QUEUES = 2
_FIRST_CID, _LAST_CID = 3, 0xFFFF_FFFE  # 0 to 2 and all ones are reserved (virtio 1.2, 5.10.4)
_TRIES = 64


class Vsock:
    """A guest's vsock; `cid` is its address on this host."""

    name = "vhost-vsock"
    device_type = 19
    class_code = 0x078000
    queues = 3

    def __init__(self) -> None:
        """Takes a free context id. Raises ConfigError without /dev/vhost-vsock."""
        self._vhost = Vhost(
            "/dev/vhost-vsock", "load vhost_vsock, or give the user rights on /dev/vhost-vsock"
        )
        self.cid = self._take_cid()
        self.config = struct.pack("<Q", self.cid)
        ours = F_VERSION_1 | F_INDIRECT | F_EVENT_INDEX
        self.features = self._vhost.features() & ours
        self._running = False

    def _take_cid(self) -> int:
        # context ids are one name space for the whole host: only trying tells whether one is free
        chooser = random.Random(os.urandom(8))
        for _ in range(_TRIES):
            cid = chooser.randint(_FIRST_CID, _LAST_CID)
            try:
                ioctl(self._vhost.fd, _SET_GUEST_CID, struct.pack("<Q", cid))
                return cid
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise ConfigError("no free vsock context id found")

    def start(self, memory: Memory, queues: list[StartedQueue], features: int) -> None:
        served = [queue for queue in queues if queue.number < _DATA_QUEUES]
        if len(served) != _DATA_QUEUES:
            raise GuestFault("virtio-vsock started without its data queues")
        try:
            self._vhost.set_features(features & self._vhost.features())
            self._vhost.set_memory(memory)
            for queue in served:
                self._vhost.set_queue(queue.number, queue, memory)
            ioctl(self._vhost.fd, _SET_RUNNING, struct.pack("<i", 1))
        except OSError as error:
            raise GuestFault(f"vhost-vsock refused the guest's queues: {error.strerror}") from error
        self._running = True

    def stop(self) -> None:
        if self._running:
            ioctl(self._vhost.fd, _SET_RUNNING, struct.pack("<i", 0))
            self._running = False
