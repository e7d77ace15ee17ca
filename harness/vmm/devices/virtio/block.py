"""virtio-blk (virtio 1.2, 5.2) in this process, for hosts without a vhost-user daemon.

Data moves directly between the file and guest memory, by preadv and pwritev.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import Callable

from harness.kvm.errors import ConfigError, GuestFault

from .queue import Chain
from .transport import F_EVENT_INDEX, F_INDIRECT
from .userspace import UserspaceDevice

SECTOR = 512
_HEADER = struct.Struct("<IIQ")  # type, reserved, sector
_IN, _OUT, _FLUSH, _GET_ID = 0, 1, 4, 8
_FAIL = -1  # not a request's type: marks a request that an injected fault fails
_OK, _IO_ERROR, _UNSUPPORTED = 0, 1, 2
_F_SEG_MAX, _F_READ_ONLY, _F_BLOCK_SIZE, _F_FLUSH = 1 << 2, 1 << 5, 1 << 6, 1 << 9
_SEGMENTS = 126
_ID_BYTES = 20
_MAX_VECTORS = 1024  # IOV_MAX


def features(readonly: bool) -> int:
    """A disk's features, for every backend."""
    ring = F_INDIRECT | F_EVENT_INDEX
    return ring | _F_SEG_MAX | _F_BLOCK_SIZE | _F_FLUSH | (_F_READ_ONLY if readonly else 0)


def config(sectors: int) -> bytes:
    """The configuration space: capacity, size_max, seg_max, geometry, blk_size. The other fields
    belong to features that are not offered."""
    return struct.pack("<QII4xI36x", sectors, 0, _SEGMENTS, SECTOR)


def sector_count(path: str, size: int) -> int:
    """The number of sectors in `size` bytes. Raises ConfigError for 0 or a part of a sector."""
    if size == 0 or size % SECTOR:
        raise ConfigError(
            f"disk {path}: {size} bytes is not a whole number of {SECTOR}-byte sectors",
            "build the image again: it is truncated",
        )
    return size // SECTOR


def file_size(fd: int) -> int:
    """The bytes of a file or a block device. Raises OSError for anything else."""
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        return os.lseek(fd, 0, os.SEEK_END)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "neither a file nor a block device")
    return status.st_size


class Block(UserspaceDevice):
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
        end_machine: Callable[[BaseException], None],
    ) -> None:
        """direct: bypass the host's page cache (O_DIRECT). end_machine: called with what ends the
        machine. Raises ConfigError for a path that cannot be a disk."""
        super().__init__(end_machine)
        self.serial = serial.encode("ascii", "replace")[:_ID_BYTES].ljust(_ID_BYTES, b"\0")
        self.label = self.serial.rstrip(b"\0").decode("ascii", "replace")
        flags = os.O_CLOEXEC | (os.O_RDONLY if readonly else os.O_RDWR)
        try:
            self._fd = os.open(path, flags | (os.O_DIRECT if direct else 0))
            size = file_size(self._fd)
        except OSError as error:
            raise ConfigError(f"disk {path}: {error.strerror}", "check the path") from error
        self.sectors = sector_count(path, size)
        self._readonly = readonly
        self.features = features(readonly)
        self.config = config(self.sectors)

    def counters(self) -> dict[str, int]:
        return {f"block_requests_{self.label}": self.requests}

    def _handle_request(self, number: int, chain: Chain) -> int:
        header, source = _split_header(chain.readable, _HEADER.size)
        target = [view for view in chain.writable if len(view)]
        if len(header) < _HEADER.size or not target:
            raise GuestFault("a virtio-blk request without header or status")
        kind, _, sector = _HEADER.unpack(header)
        # the status is the last byte the device may write
        last = target.pop()
        if self.faults.get(self.requests + 1) == "disk-error":
            kind = _FAIL
        status, written = self._transfer(
            kind, sector, source, target + ([last[:-1]] if len(last) > 1 else [])
        )
        last[-1] = status
        return written + 1

    def _transfer(
        self, kind: int, sector: int, source: list[memoryview], target: list[memoryview]
    ) -> tuple[int, int]:
        """Execute a request. Returns its status and the bytes written to the guest."""
        try:
            if kind == _FAIL:
                raise OSError(errno.EIO, "injected fault")
            if kind == _IN:
                size = self._transfer_size(sector, target)
                done = _transfer_all(os.preadv, self._fd, target, sector * SECTOR)
                return (_OK, done) if done == size else (_IO_ERROR, done)
            if kind == _OUT:
                if self._readonly:  # the status is IOERR (virtio 1.2, 5.2.6.2)
                    raise OSError(errno.EROFS, "read-only")
                size = self._transfer_size(sector, source)
                done = _transfer_all(os.pwritev, self._fd, source, sector * SECTOR)
                return (_OK if done == size else _IO_ERROR), 0
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

    def _transfer_size(self, sector: int, views: list[memoryview]) -> int:
        """The bytes of a transfer. Raises OSError if it exceeds the disk; the guest sees IOERR."""
        size = sum(map(len, views))
        if size % SECTOR or sector + size // SECTOR > self.sectors:
            raise OSError(errno.EINVAL, "beyond the disk")
        return size


def _split_header(views: list[memoryview], size: int) -> tuple[bytes, list[memoryview]]:
    """The first `size` bytes, and the rest. A driver may split a request into descriptors anywhere
    (virtio 1.2, 2.7.4.1)."""
    head, rest = b"", []
    for view in views:
        count = min(size - len(head), len(view))
        head += bytes(view[:count])
        if len(view) > count:
            rest.append(view[count:])
    return head, rest


def _transfer_all(
    call: Callable[[int, list[memoryview], int], int], fd: int, views: list[memoryview], offset: int
) -> int:
    """Repeat preadv or pwritev until all bytes have moved, or the file ends."""
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
