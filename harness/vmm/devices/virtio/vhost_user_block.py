"""virtio-blk (virtio 1.2, 5.2) served by qemu-storage-daemon: raw and qcow2, overlays, io_uring."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, Protocol

from harness.kvm.errors import ConfigError, GuestFault, MachineEnd
from harness.kvm.vm import signal_eventfd

from ...config import DiskConfig
from ...memory import Memory
from . import block
from .transport import ActiveQueue, Backend
from .vhost_user import VhostUser, VhostUserError

_WRITE_CACHE = 32  # offset of `writeback` in the configuration space
_IDLE = 10.0  # seconds that requests under way have to be completed in after a stop


class StorageBackend(Protocol):
    """Who serves disks. sockets: for each, connected to its vhost-user server. aio: how it does
    I/O."""

    sockets: list[socket.socket]
    aio: set[str]

    def guest_fault(self) -> str:
        """What it says of a guest that broke the rules; "" if it says nothing such."""

    def exit_report(self) -> str:
        """How it ended, if it did, and what it said."""


class VhostUserBlock(Backend):
    """A disk of the daemon's. It offers what `block.Block` offers, so that either can go on where
    the other stopped."""

    name = "virtio-blk"
    device_type = block.Block.device_type
    class_code = block.Block.class_code
    queues = 1
    data_plane = "vhost-user"

    def __init__(self, disk: DiskConfig, daemon: StorageBackend, number: int) -> None:
        """number: of the daemon's disks. Waits for the daemon. Raises ConfigError."""
        self._disk = disk
        self._daemon = daemon
        self._peer = VhostUser(daemon.sockets[number])
        try:
            offered = self._peer.negotiate()
            wanted = block.features(not disk.writable)
            self.features = offered & wanted
            (sectors,) = struct.unpack("<Q", self._peer.read_config(8))
            # the driver is not told of a cache mode: it flushes
            self._peer.write_config(_WRITE_CACHE, b"\1")
        except VhostUserError as error:
            cause = f"disk {disk.path}: {daemon.exit_report()} ({error})"
            raise ConfigError(cause, "see what the daemon says of it") from error
        self.config = block.config(sectors)
        self._used: memoryview | None = None  # the used ring's index, as one 16-bit word
        self._counting = threading.Lock()
        self._requests = 0
        self._seen = 0

    def counters(self) -> dict[str, int]:
        self._count()
        return {f"block_requests_{self._disk.serial}": self._requests}

    def _count(self) -> None:
        """The used ring's index grows by one a request (the daemon itself counts none for a vhost-
        user export). It has 16 bits: this must be called before 65536 more are done."""
        with self._counting:
            if self._used is not None:
                used = self._used[0]
                self._requests += (used - self._seen) & 0xFFFF
                self._seen = used

    def poll(self) -> None:
        self._count()
        disconnected = self._peer.disconnected  # before its words: it speaks first, then hangs up
        if fault := self._daemon.guest_fault():
            raise GuestFault(f"{self.name}: {fault}")
        if disconnected:
            raise self._lost("it hung up")

    def _lost(self, why: str) -> MachineEnd:
        detail = f"disk {self._disk.serial}: {why}; {self._daemon.exit_report()}"
        return MachineEnd("backend-lost", detail)

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except VhostUserError as error:
            raise self._lost(str(error)) from error

    def start(self, memory: Memory, queues: list[ActiveQueue], features: int) -> None:
        if not queues:
            raise GuestFault(f"{self.name} started without its queue")
        (queue,) = queues
        with self._talking():
            self._peer.set_features(features)
            self._peer.set_memory(memory)
            self._peer.set_queue(0, queue, memory)
        with self._counting:
            self._used = memory.view(queue.ring.used + 2, 2).cast("H")
            self._kick = queue.kick
            self._available = memory.view(queue.ring.available + 2, 2).cast("H")
            self._seen = queue.base
        signal_eventfd(queue.kick)  # for what is in the ring since before a stop

    def stop(self) -> dict[int, int]:
        # libvhost-user panics at a request that is completed after the stop: let there be none, not
        # even of those that the guest has not told it of yet
        signal_eventfd(self._kick)
        self._done_up_to(lambda: self._available[0])
        with self._talking():
            base = self._peer.stop_queue(0)
        # it pops no more, but completes what it has popped
        if not self._done_up_to(lambda: base):
            raise self._lost(f"requests are under way {_IDLE:g} s after its stop")
        self._count()
        with self._counting:
            self._used = None
        return {0: base}

    def _done_up_to(self, index: Callable[[], int]) -> bool:
        """Wait until the used ring's index, which each completed request moves on, is that one."""
        assert self._used is not None
        deadline = time.monotonic() + _IDLE
        while self._used[0] != index():
            if time.monotonic() > deadline:
                return False
            self.poll()
            time.sleep(0.0005)
        return True
