"""virtio-blk (virtio 1.2, 5.2), served in this process: where no vhost-user daemon is at hand.

Data moves straight between the file and guest memory (preadv and pwritev on views of it).
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
_FAIL = -1  # no request's type: one that a fault hits
_OK, _IO_ERROR, _UNSUPPORTED = 0, 1, 2
_F_SEG_MAX, _F_READ_ONLY, _F_BLOCK_SIZE, _F_FLUSH = 1 << 2, 1 << 5, 1 << 6, 1 << 9
_SEGMENTS = 126
_ID_BYTES = 20
_MAX_VECTORS = 1024  # IOV_MAX


def features(readonly: bool) -> int:
    """What a disk offers, whoever serves it."""
    ring = F_INDIRECT | F_EVENT_INDEX
    return ring | _F_SEG_MAX | _F_BLOCK_SIZE | _F_FLUSH | (_F_READ_ONLY if readonly else 0)


def config(sectors: int) -> bytes:
    """The configuration space: capacity, size_max, seg_max, geometry, blk_size; the rest is for
    features not offered."""
    return struct.pack("<QII4xI36x", sectors, 0, _SEGMENTS, SECTOR)


def sector_count(path: str, size: int) -> int:
    """How many sectors `size` bytes are. Raises ConfigError for none, or a part of one."""
    if size == 0 or size % SECTOR:
        raise ConfigError(
            f"disk {path}: {size} bytes is not a whole number of {SECTOR}-byte sectors",
            "the image is truncated: build it again",
        )
    return size // SECTOR


def file_size(fd: int) -> int:
    """Bytes of a file or block device; OSError for what is neither."""
    about = os.fstat(fd)
    if stat.S_ISBLK(about.st_mode):
        return os.lseek(fd, 0, os.SEEK_END)
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "neither a file nor a block device")
    return about.st_size


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
        """direct: bypass the host's page cache (O_DIRECT). end_machine: gets what ends the machine.
        Raises ConfigError for a path that cannot be a disk."""
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
        header, source = _split(chain.readable, _HEADER.size)
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
        """Returns status and the bytes read into the guest."""
        try:
            if kind == _FAIL:
                raise OSError(errno.EIO, "as asked for")
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
