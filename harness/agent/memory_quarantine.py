"""Keeps the memory of ended guests from reuse on a host that QEMU emulates.

QEMU keeps its translations of the code in a page. When another guest clears that page, QEMU drops
these translations store by store. For the memory of a Linux guest that takes half a second or more,
which the next guest's boot would pay. So the kernel gets such memory back only when the host needs
it.
"""

from __future__ import annotations

import os
from collections import deque

from .utilization import memory_available

_RESERVE = 2048  # MiB that the host must have available besides the quarantine
_FILES = 64  # limit of descriptors


class MemoryQuarantine:
    """The memory files of ended guests, the oldest first."""

    def __init__(self) -> None:
        self.enabled = False
        self._files: deque[int] = deque()

    @property
    def size_mib(self) -> float:
        return sum(os.fstat(file).st_blocks for file in self._files) * 512 / (1 << 20)

    def add(self, file: int) -> None:
        """Take over a memory file. An empty one is closed, and so is any while not enabled."""
        if self.enabled and os.fstat(file).st_blocks:
            self._files.append(file)
            if len(self._files) > _FILES:
                os.close(self._files.popleft())
        else:
            os.close(file)

    def release_excess(self) -> None:
        """Free the oldest files until the host has its reserve."""
        while self._files and memory_available() < _RESERVE:
            os.close(self._files.popleft())

    def close(self) -> None:
        """Free all files; a forked process closes only its own descriptors."""
        while self._files:
            os.close(self._files.popleft())
