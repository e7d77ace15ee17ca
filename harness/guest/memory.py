"""Guest memory in a test's hands: reads, writes and the dirty log."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from harness.errors import GuestEnded, HarnessError, hide_frames
from harness.guest.vcpu import Ask

__tracebackhide__ = hide_frames
CHUNK = 256 << 10  # bytes per message, the limit of harness/agent/introspection.py
PAGE = 4096


class Memory:
    """Guest memory by guest-physical address. Read and write it as `memory[gpa : gpa + n]`."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._logs = 0

    def __getitem__(self, range_: slice) -> bytes:
        """Read a range. Raises HarnessError outside of guest memory."""
        start, size = _start_and_size(range_)
        pieces = [
            base64.b64decode(self._ask("read_memory", gpa=at, size=length))
            for at, length in _chunks(start, size)
        ]
        return b"".join(pieces)

    def __setitem__(self, range_: slice, data: bytes) -> None:
        """Write a range.

        Raises HarnessError outside of guest memory, ValueError for data of another length.
        """
        start, size = _start_and_size(range_)
        if len(data) != size:
            raise ValueError(f"{len(data)} bytes of data for {size} bytes of memory")
        for at, length in _chunks(start, size):
            piece = data[at - start : at - start + length]
            self._ask("write_memory", gpa=at, data=base64.b64encode(piece).decode())

    @contextlib.contextmanager
    def log_dirty_pages(self) -> Iterator[DirtyLog]:
        """Let KVM log the pages that vCPUs write within the with block.

        The first write to each page then takes an exit. Writes of devices are not logged. Blocks
        may be nested.
        """
        self._ask("log_dirty_pages", on=True)
        self._logs += 1
        try:
            yield DirtyLog(self._ask)
        finally:
            self._logs -= 1
            if not self._logs:
                with contextlib.suppress(GuestEnded):
                    self._ask("log_dirty_pages", on=False)


@dataclass(frozen=True)
class DirtyLog:
    """The pages that vCPUs write; see Memory.log_dirty_pages."""

    _ask: Ask

    def pages(self) -> list[int]:
        """Guest-physical addresses of the 4 KiB pages written since the last call."""
        slots = self._ask("dirty_log_slots")
        if not slots:
            raise HarnessError(
                "writes are no longer logged", hint="call pages() within the with block"
            )
        return [
            gpa + PAGE * (8 * index + bit)
            for slot, gpa in slots
            for index, byte in enumerate(self._bitmap(slot))
            if byte
            for bit in range(8)
            if byte >> bit & 1
        ]

    def _bitmap(self, slot: int) -> bytes:
        """A memslot's bitmap, one bit per page, the lowest bit first."""
        bitmap, more = b"", True
        while more:
            piece, more = self._ask("dirty_bitmap", slot=slot, at=len(bitmap))
            bitmap += base64.b64decode(piece)
        return bitmap


def _start_and_size(range_: slice) -> tuple[int, int]:
    """Check a slice of addresses. Raises TypeError or ValueError."""
    if not isinstance(range_, slice) or None in (range_.start, range_.stop) or range_.step:
        raise TypeError("index guest memory by [start:stop] with both addresses")
    if not 0 <= range_.start <= range_.stop:
        raise ValueError(f"not a range of memory: {range_.start:#x} to {range_.stop:#x}")
    return range_.start, range_.stop - range_.start


def _chunks(start: int, size: int) -> Iterator[tuple[int, int]]:
    """Split a range into pieces of at most CHUNK bytes: address and size of each."""
    for at in range(start, start + size, CHUNK):
        yield at, min(CHUNK, start + size - at)
