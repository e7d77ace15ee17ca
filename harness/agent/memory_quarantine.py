"""Memory in which code ran, kept from being used again: for a host that QEMU emulates.

Its QEMU keeps what it has translated of a page. Who then clears that page has to make it forget
that, store by store: half a second for a Linux guest's memory, which the next guest's boot would
pay, sometimes twice as much. So the memory of guests that have ended is given back only when the
host has no other to spare.
"""

from __future__ import annotations

import os
from collections import deque

from .utilization import memory_available

_SPARE = 2048  # MiB that the host must have beside it
_FILES = 64  # a descriptor each


class MemoryQuarantine:
    """The memory files of guests that have ended, the oldest first."""

    def __init__(self) -> None:
        self.wanted = False
        self._files: deque[int] = deque()

    @property
    def held(self) -> float:
        """MiB."""
        return sum(os.fstat(file).st_blocks for file in self._files) * 512 / (1 << 20)

    def add(self, file: int) -> None:
        """Keep it, if that is wanted; or close it."""
        if self.wanted and os.fstat(file).st_blocks:
            self._files.append(file)
            if len(self._files) > _FILES:
                os.close(self._files.popleft())
        else:
            os.close(file)

    def make_room(self) -> None:
        """Give back what the host cannot spare."""
        while self._files and memory_available() < _SPARE:
            os.close(self._files.popleft())

    def close(self) -> None:
        """For a process that is to know nothing of them."""
        while self._files:
            os.close(self._files.popleft())
