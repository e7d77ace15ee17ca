"""virtio-blk (virtio 1.2, 5.2), served in this process: where no vhost-user daemon is at hand.

Data moves straight between the file and guest memory (preadv and pwritev on views of it).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
from typing import Callable

from ...errors import ConfigError, GuestFault
from ...kvm.vm import signal_eventfd
from ...memory import Memory
from .queue import Chain, Queue
from .transport import F_EVENT_INDEX, F_INDIRECT, StartedQueue

SECTOR = 512
_HEADER = struct.Struct("<IIQ")  # type, reserved, sector
_IN, _OUT, _FLUSH, _GET_ID = 0, 1, 4, 8
_OK, _IO_ERROR, _UNSUPPORTED = 0, 1, 2
_F_SEG_MAX, _F_READ_ONLY, _F_BLOCK_SIZE, _F_FLUSH = 1 << 2, 1 << 5, 1 << 6, 1 << 9
_SEGMENTS = 126
_ID_BYTES = 20
_MAX_VECTORS = 1024  # IOV_MAX


class Block:
    """A disk: a file or a block device."""

    name = "virtio-blk"
    device_type = 2
    class_code = 0x018000
    queues = 1

    def __init__(
        self,
        path: str,
        serial: str,
        readonly: bool,
        direct: bool,
        fail: Callable[[BaseException], None],
    ) -> None:
        """direct: bypass the host's page cache (O_DIRECT). fail: gets what ends the machine.
        Raises ConfigError for a path that cannot be a disk."""
        self.serial = serial.encode("ascii", "replace")[:_ID_BYTES].ljust(_ID_BYTES, b"\0")
        self._fail = fail
        flags = os.O_CLOEXEC | (os.O_RDONLY if readonly else os.O_RDWR)
        try:
            self._fd = os.open(path, flags | (os.O_DIRECT if direct else 0))
            size = _size(self._fd)
        except OSError as error:
            raise ConfigError(f"disk {path}: {error.strerror}", "check the path") from error
        if size == 0 or size % SECTOR:
            raise ConfigError(
                f"disk {path}: {size} bytes is not a whole number of {SECTOR}-byte sectors",
                "the image is truncated: build it again",
            )
        self.sectors = size // SECTOR
        self._readonly = readonly
        ring = F_INDIRECT | F_EVENT_INDEX
        self.features = (
            ring | _F_SEG_MAX | _F_BLOCK_SIZE | _F_FLUSH | (_F_READ_ONLY if readonly else 0)
        )
        # capacity, size_max, seg_max, geometry, blk_size; the rest is for features not offered
        self.config = struct.pack("<QII4xI36x", self.sectors, 0, _SEGMENTS, SECTOR)
        self.requests = 0
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._kick = -1

    def start(self, memory: Memory, queues: list[StartedQueue], features: int) -> None:
        if not queues:
            raise GuestFault("virtio-blk started without its queue")
        started = queues[0]
        queue = Queue(memory, started.ring, bool(features & F_EVENT_INDEX))
        self._kick = started.kick
        self._stopping.clear()
        self._thread = threading.Thread(
            target=self._serve, args=(queue, started), name="virtio-blk", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        if self._thread:
            self._stopping.set()
            signal_eventfd(self._kick)
            self._thread.join()
            self._thread = None

    def _serve(self, queue: Queue, started: StartedQueue) -> None:
        try:
            while not self._stopping.is_set():
                interrupt = False
                for chain in queue.pop():
                    if self._stopping.is_set():
                        return
                    interrupt |= queue.push(chain, self._request(chain))
                    if interrupt and started.call >= 0:
                        signal_eventfd(started.call)
                        interrupt = False
                os.read(started.kick, 8)
        except BaseException as error:
            self._fail(error)

    def _request(self, chain: Chain) -> int:
        """Serve one request; returns the bytes written to the guest."""
        self.requests += 1
        header, source = _split(chain.readable, _HEADER.size)
        target = [view for view in chain.writable if len(view)]
        if len(header) < _HEADER.size or not target:
            raise GuestFault("a virtio-blk request without header or status")
        kind, _, sector = _HEADER.unpack(header)
        # the status is the last byte the device may write
        last = target.pop()
        status, written = self._transfer(
            kind, sector, source, target + ([last[:-1]] if len(last) > 1 else [])
        )
        last[-1] = status
        return written + 1

    def _transfer(
        self, kind: int, sector: int, source: list[memoryview], target: list[memoryview]
    ) -> tuple[int, int]:
        """Returns status and the bytes read into the guest."""
        try:
            if kind == _IN:
                wanted = self._check(sector, target)
                done = _whole(os.preadv, self._fd, target, sector * SECTOR)
                return (_OK, done) if done == wanted else (_IO_ERROR, done)
            if kind == _OUT:
                if self._readonly:  # an error, not "unsupported" (virtio 1.2, 5.2.6.2)
                    raise OSError(errno.EROFS, "read-only")
                wanted = self._check(sector, source)
                done = _whole(os.pwritev, self._fd, source, sector * SECTOR)
                return (_OK if done == wanted else _IO_ERROR), 0
            if kind == _FLUSH:
                os.fdatasync(self._fd)
                return _OK, 0
        except OSError:
            return _IO_ERROR, 0
        if kind == _GET_ID and target:
            size = min(len(target[0]), _ID_BYTES)
            target[0][:size] = self.serial[:size]
            return _OK, size
        return _UNSUPPORTED, 0

    def _check(self, sector: int, views: list[memoryview]) -> int:
        """Bytes of a transfer; OSError (EIO to the guest) when it leaves the disk."""
        size = sum(map(len, views))
        if size % SECTOR or sector + size // SECTOR > self.sectors:
            raise OSError(errno.EINVAL, "beyond the disk")
        return size


def _split(views: list[memoryview], size: int) -> tuple[bytes, list[memoryview]]:
    """The first bytes and the rest: how requests lie in descriptors is the driver's affair
    (virtio 1.2, 2.7.4.1)."""
    head, rest = b"", []
    for view in views:
        taken = min(size - len(head), len(view))
        head += bytes(view[:taken])
        if len(view) > taken:
            rest.append(view[taken:])
    return head, rest


def _whole(
    call: Callable[[int, list[memoryview], int], int], fd: int, views: list[memoryview], offset: int
) -> int:
    """preadv or pwritev until all is done, the file ends, or nothing moves."""
    total = 0
    while views:
        moved = call(fd, views[:_MAX_VECTORS], offset + total)
        if not moved:
            break
        total += moved
        while views and moved >= len(views[0]):
            moved -= len(views.pop(0))
        if moved:
            views[0] = views[0][moved:]
    return total


def _size(fd: int) -> int:
    """Bytes of a file or block device; OSError for what is neither."""
    about = os.fstat(fd)
    if stat.S_ISBLK(about.st_mode):
        return os.lseek(fd, 0, os.SEEK_END)
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "neither a file nor a block device")
    return about.st_size
