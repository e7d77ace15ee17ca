"""virtio-vsock (virtio 1.2, 5.10) by vhost-vsock: sockets between host and guest.

The kernel processes both data queues. This process uses the event queue to tell a clone that its
address has changed.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from fcntl import ioctl
from functools import partial
from typing import Callable

from harness.kvm.errors import ConfigError, GuestFault
from harness.kvm.vm import signal_eventfd

from ...memory import Memory
from .queue import Queue
from .transport import F_EVENT_INDEX, F_INDIRECT, F_VERSION_1, ActiveQueue, Backend
from .vhost import Vhost, iow

_SET_GUEST_CID = iow(0x60, 8)
_SET_RUNNING = iow(0x61, 4)
_DATA_QUEUES = 2
_EVENT_QUEUE = 2
_TRANSPORT_RESET = struct.pack("<I", 0)
_FIRST_CID, _LAST_CID = 3, 0xFFFF_FFFE  # 0 to 2 and all ones are reserved (virtio 1.2, 5.10.4)
_CID_ATTEMPTS = 64


class Vsock(Backend):
    """A guest's vsock. cid: its address on this host."""

    name = "vhost-vsock"
    device_type = 19
    class_code = 0x078000
    queues = 3
    data_plane = "in kernel"

    def __init__(self) -> None:
        """Allocate a free context id. Raises ConfigError without /dev/vhost-vsock."""
        self._vhost = Vhost(self.name)
        self.cid = self._allocate_cid()
        self.config = struct.pack("<Q", self.cid)
        supported = F_VERSION_1 | F_INDIRECT | F_EVENT_INDEX
        self.features = self._vhost.features() & supported
        self._running = False
        self._events: Queue | None = None
        self._event_call = -1
        self._event_buffers = 0
        self._receive_buffers: tuple[Callable[[], int], int] = (lambda: 0), 0

    def _allocate_cid(self) -> int:
        # all of the host shares the context ids, and only an attempt shows whether one is free
        for _ in range(_CID_ATTEMPTS):
            number = int.from_bytes(os.urandom(8), "little")
            cid = _FIRST_CID + number % (_LAST_CID + 1 - _FIRST_CID)
            try:
                ioctl(self._vhost.fd, _SET_GUEST_CID, struct.pack("<Q", cid))
                return cid
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise ConfigError(f"no free vsock context id in {_CID_ATTEMPTS} attempts", "try again")

    def restore_config(self, config: bytes) -> bool:
        return True  # a clone has another address

    def start(self, memory: Memory, queues: list[ActiveQueue], features: int) -> None:
        data = [queue for queue in queues if queue.number < _DATA_QUEUES]
        if len(data) != _DATA_QUEUES:
            raise GuestFault("virtio-vsock started without its data queues")
        try:
            self._vhost.start(memory, data, features)
            ioctl(self._vhost.fd, _SET_RUNNING, struct.pack("<i", 1))
        except OSError as error:
            raise GuestFault(f"vhost-vsock refused the guest's queues: {error.strerror}") from error
        self._running = True
        self._receive_buffers = partial(data[0].ring.posted_buffers, memory), data[0].ring.size
        for queue in queues:
            if queue.number == _EVENT_QUEUE:
                event_index = bool(features & F_EVENT_INDEX)
                self._events = Queue(memory, queue.ring, event_index, queue.base)
                self._event_call = queue.call

    def reset_connections(self) -> None:
        """Tell the driver that all connections are gone and that its address has changed
        (VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, virtio 1.2, 5.10.6.7)."""
        if self._events:
            self._event_buffers = self._events.pending
        chain = next(self._events.pop(), None) if self._events else None
        if self._events is None or chain is None:
            return
        if not chain.writable or len(chain.writable[0]) < len(_TRANSPORT_RESET):
            raise GuestFault("virtio-vsock: an event buffer is too small")
        chain.writable[0][: len(_TRANSPORT_RESET)] = _TRANSPORT_RESET
        self._events.push(chain, len(_TRANSPORT_RESET))
        if self._event_call >= 0:
            signal_eventfd(self._event_call)

    @property
    def reset_acknowledged(self) -> bool:
        """Whether the driver has handled the event: it has returned the event's buffer."""
        events = self._events  # stop() may clear it at any time
        return events is None or events.pending >= self._event_buffers

    def wait_reset_acknowledged(self, timeout: float, alive: Callable[[], bool]) -> None:
        """Wait until reset_acknowledged, for at most `timeout` seconds and while alive()."""
        end = time.monotonic() + timeout
        while alive() and not self.reset_acknowledged and time.monotonic() < end:
            time.sleep(0.001)

    @property
    def receive_queue_filled(self) -> bool:
        """Whether most of the receive queue's buffers are posted. The driver refills the queue when
        half of them are used."""
        posted_buffers, size = self._receive_buffers
        return posted_buffers() * 4 >= size * 3

    def poll(self) -> None:
        self._vhost.check()

    def stop(self) -> dict[int, int]:
        if self._running:
            ioctl(self._vhost.fd, _SET_RUNNING, struct.pack("<i", 0))
            self._running = False
        bases = {number: self._vhost.base(number) for number in range(_DATA_QUEUES)}
        if self._events:
            bases[_EVENT_QUEUE] = self._events.base
            self._events = None
        return bases
