"""virtio-blk (virtio 1.2, 5.2) by qemu-storage-daemon: raw and qcow2, overlays, io_uring."""

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
_DRAIN_TIMEOUT = 10.0  # seconds for requests in flight to complete


class StorageBackend(Protocol):
    """A process that serves disks by vhost-user.

    sockets: one per disk, connected to its vhost-user server. aio: its kinds of asynchronous I/O.
    """

    sockets: list[socket.socket]
    aio: set[str]

    def guest_fault(self) -> str:
        """The process' report of a guest that violated a protocol; "" if there is none."""

    def exit_report(self) -> str:
        """Whether and how the process ended, and its output."""


class VhostUserBlock(Backend):
    """A disk of a storage daemon. It has the features of block.Block, so each can continue where
    the other stopped."""

    name = "virtio-blk"
    device_type = block.Block.device_type
    class_code = block.Block.class_code
    queues = 1
    data_plane = "vhost-user"

    def __init__(self, disk: DiskConfig, daemon: StorageBackend, number: int) -> None:
        """number: the disk's index in the daemon. Waits for the daemon. Raises ConfigError."""
        self._disk = disk
        self._daemon = daemon
        self._backend = VhostUser(daemon.sockets[number])
        try:
            offered = self._backend.negotiate()
            self.features = offered & block.features(not disk.writable)
            (sectors,) = struct.unpack("<Q", self._backend.read_config(8))
            # a write-back cache: drivers flush, as the mode is not negotiated
            self._backend.write_config(_WRITE_CACHE, b"\1")
        except VhostUserError as error:
            cause = f"disk {disk.path}: {daemon.exit_report()} ({error})"
            raise ConfigError(cause, "read the daemon's message") from error
        self.config = block.config(sectors)
        self._used: memoryview | None = None  # the used ring's index, a 16-bit word
        self._count_lock = threading.Lock()
        self._requests = 0
        self._last_used = 0

    def counters(self) -> dict[str, int]:
        self._count_requests()
        return {f"block_requests_{self._disk.serial}": self._requests}

    def _count_requests(self) -> None:
        """Count requests by the used ring's index, which grows by one per request. The daemon
        counts none. The index has 16 bits: call this before 65536 more requests complete."""
        with self._count_lock:
            if self._used is not None:
                used = self._used[0]
                self._requests += (used - self._last_used) & 0xFFFF
                self._last_used = used

    def poll(self) -> None:
        self._count_requests()
        disconnected = self._backend.disconnected  # first: the daemon reports a fault, then closes
        if fault := self._daemon.guest_fault():
            raise GuestFault(f"{self.name}: {fault}")
        if disconnected:
            raise self._backend_lost("it closed the connection")

    def _backend_lost(self, problem: str) -> MachineEnd:
        detail = f"disk {self._disk.serial}: {problem}; {self._daemon.exit_report()}"
        return MachineEnd("backend-lost", detail)

    @contextmanager
    def _lost_on_error(self) -> Iterator[None]:
        """A protocol error in the block ends the machine."""
        try:
            yield
        except VhostUserError as error:
            raise self._backend_lost(str(error)) from error

    def start(self, memory: Memory, queues: list[ActiveQueue], features: int) -> None:
        if not queues:
            raise GuestFault(f"{self.name} started without its queue")
        (queue,) = queues
        with self._lost_on_error():
            self._backend.set_features(features)
            self._backend.set_memory(memory)
            self._backend.set_queue(0, queue, memory)
        with self._count_lock:
            self._used = memory.view(queue.ring.used + 2, 2).cast("H")
            self._kick = queue.kick
            self._available = memory.view(queue.ring.available + 2, 2).cast("H")
            self._last_used = queue.base
        signal_eventfd(queue.kick)  # for requests that were in the ring before a stop

    def stop(self) -> dict[int, int]:
        # libvhost-user panics if a request completes after the stop: wait for all requests, also
        # for those that the guest has not kicked yet
        signal_eventfd(self._kick)
        self._wait_used_index(lambda: self._available[0])
        with self._lost_on_error():
            base = self._backend.stop_queue(0)
        # it pops no more requests, but completes those it has popped
        if not self._wait_used_index(lambda: base):
            raise self._backend_lost(f"requests are in flight {_DRAIN_TIMEOUT:g} s after the stop")
        self._count_requests()
        with self._count_lock:
            self._used = None
        return {0: base}

    def _wait_used_index(self, index: Callable[[], int]) -> bool:
        """Wait until the used ring's index equals index(). False if it does not in time."""
        assert self._used is not None
        deadline = time.monotonic() + _DRAIN_TIMEOUT
        while self._used[0] != index():
            if time.monotonic() > deadline:
                return False
            self.poll()
            time.sleep(0.0005)
        return True
