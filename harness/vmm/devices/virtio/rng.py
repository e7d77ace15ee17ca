"""virtio-rng (virtio 1.2, 5.4): random bytes from the host's kernel."""

from __future__ import annotations

import os

from harness.kvm.errors import GuestFault

from .queue import Chain
from .userspace import UserspaceDevice

_LIMIT = 4096  # bytes per request; the driver sends another request for more


class Rng(UserspaceDevice):
    """The device."""

    name = "virtio-rng"
    device_type = 4
    class_code = 0x00FF00
    queues = 1
    config = b""

    def counters(self) -> dict[str, int]:
        return {"rng_requests": self.requests}

    def _handle_request(self, number: int, chain: Chain) -> int:
        written = 0
        for view in chain.writable:
            size = min(len(view), _LIMIT - written)
            view[:size] = os.urandom(size)  # getrandom(2) until the buffer is full
            written += size
        if chain.readable or not written:
            raise GuestFault("a virtio-rng request without a buffer to write")
        return written
