"""The port and memory buses: who answers at an address.

One lock serves all devices, as exits are rare by design: queues are kicked by ioeventfd and
answered by irqfd, so a guest at work does not come here.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from typing import Callable, Protocol


class Device(Protocol):
    """What sits on a bus. offset: from the start of its range; size: 1, 2, 4 or 8 bytes."""

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class Bus:
    """Ranges of addresses, each a device's; nobody's reads are all ones, writes are dropped."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ranges: list[tuple[int, int, Device]] = []

    def add(self, start: int, length: int, device: Device) -> None:
        """Raises ValueError if the range overlaps another."""
        at = bisect_right(self._starts, start)
        before = self._ranges[at - 1] if at else None
        after = self._ranges[at] if at < len(self._ranges) else None
        if (before and before[1] > start) or (after and after[0] < start + length):
            raise ValueError(f"bus range {start:#x}+{length:#x} overlaps another")
        self._starts.insert(at, start)
        self._ranges.insert(at, (start, start + length, device))

    def remove(self, start: int) -> None:
        at = self._starts.index(start)
        del self._starts[at], self._ranges[at]

    def read(self, address: int, size: int) -> int:
        at = bisect_right(self._starts, address) - 1
        if at >= 0:
            start, end, device = self._ranges[at]
            if address + size <= end:
                return device.read(address - start, size) & ((1 << 8 * size) - 1)
        return (1 << 8 * size) - 1

    def write(self, address: int, size: int, value: int) -> None:
        at = bisect_right(self._starts, address) - 1
        if at >= 0:
            start, end, device = self._ranges[at]
            if address + size <= end:
                device.write(address - start, size, value)


class Buses:
    """Both buses and their lock. `drain` empties the ring of coalesced writes (see coalesced)."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.pio = Bus()
        self.mmio = Bus()
        self.drain: Callable[[], None] = lambda: None
        self.pio_read = self.pio.read
        self.pio_write = self.pio.write
        self.mmio_read = self.mmio.read
        self.mmio_write = self.mmio.write
