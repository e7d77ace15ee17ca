"""The port bus and the memory bus: they find the device at an address.

All devices share one lock, as exits are rare by design. Queues are kicked by ioeventfd and answered
by irqfd, so a guest in steady state causes no access here.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from typing import Callable, Protocol

_CACHE_LIMIT = 256


class Device(Protocol):
    """A device on a bus. offset: from the start of its range. size: 1, 2, 4 or 8 bytes."""

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class UnclaimedDevice:
    """Answers where there is no device: reads are all ones, writes are dropped."""

    def read(self, offset: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None: ...


_UNCLAIMED: tuple[int, int, Device] = (0, 0, UnclaimedDevice())


class _RangeCache(dict[int, tuple[int, int, Device]]):
    """The last range at or below each address. A guest repeats a few addresses."""

    def __init__(self, find: Callable[[int], tuple[int, int, Device]]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, address: int) -> tuple[int, int, Device]:
        if len(self) >= _CACHE_LIMIT:
            self.clear()
        self[address] = bus_range = self._find(address)
        return bus_range


class Bus:
    """Maps ranges of addresses to devices."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ranges: list[tuple[int, int, Device]] = []
        self._cache = _RangeCache(self._find)

    def add(self, start: int, length: int, device: Device) -> None:
        """Put a device on `length` addresses. Raises ValueError if the range overlaps another."""
        at = bisect_right(self._starts, start)
        before = self._ranges[at - 1] if at else None
        after = self._ranges[at] if at < len(self._ranges) else None
        if (before and before[1] > start) or (after and after[0] < start + length):
            raise ValueError(f"bus range {start:#x}+{length:#x} overlaps another")
        self._starts.insert(at, start)
        self._ranges.insert(at, (start, start + length, device))
        self._cache.clear()

    def remove(self, start: int) -> None:
        """Remove the range that begins at `start`."""
        at = self._starts.index(start)
        del self._starts[at], self._ranges[at]
        self._cache.clear()

    def _find(self, address: int) -> tuple[int, int, Device]:
        """The last range that begins at or below the address."""
        at = bisect_right(self._starts, address) - 1
        return self._ranges[at] if at >= 0 else _UNCLAIMED

    def read(self, address: int, size: int) -> int:
        start, end, device = self._cache[address]
        if address + size <= end:
            return device.read(address - start, size) & ((1 << 8 * size) - 1)
        return (1 << 8 * size) - 1

    def write(self, address: int, size: int, value: int) -> None:
        start, end, device = self._cache[address]
        if address + size <= end:
            device.write(address - start, size, value)


class Buses:
    """Both buses and their lock.

    drain: handles the ring of coalesced writes, see harness.kvm.coalesced. ring: its two indices,
    which differ if the ring is not empty.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.ring: Sequence[int] = (0, 0)
        self.pio = Bus()
        self.mmio = Bus()
        self.drain: Callable[[], None] = lambda: None
