"""virtio-balloon (virtio 1.2, 5.5): the guest returns memory that it does not need to the host.

It inflates the balloon on request. By free page reporting it returns larger blocks two seconds
after it freed them. Returned memory reads as zero when the guest touches it again.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from itertools import groupby
from typing import Callable

from harness.kvm.errors import GuestFault

from ...memory import PAGE, Memory
from .queue import Chain
from .transport import ActiveQueue
from .userspace import UserspaceDevice

_F_STATS, _F_DEFLATE_ON_OOM, _F_REPORTING = 1 << 1, 1 << 2, 1 << 5
_INFLATE, _DEFLATE = 0, 1
_CONFIG = struct.Struct(
    "<II8x"
)  # num_pages, actual; the other fields belong to features not offered
_ACTUAL = range(4, 8)
_PAGE_NUMBER = struct.Struct("<I")
_STATISTIC = struct.Struct("<HQ")  # tag, value
# by tag (5.5.6.3); in bytes, but faults are counts
_NAMES = (
    "swap_in", "swap_out", "major_faults", "minor_faults", "free_memory", "total_memory",
    "available_memory", "disk_caches", "hugetlb_allocations", "hugetlb_failures",
)  # fmt: skip
_LIMIT = 1 << 16  # bytes of a list of pages or statistics; Linux's have 1,024 and 100
_STATISTICS_TIMEOUT = 1.0  # seconds


class Balloon(UserspaceDevice):
    """The balloon, in pages of 4 KiB. Inflating splits the host's huge pages; free page reporting
    does not, as its blocks have 2 MiB or more."""

    name = "virtio-balloon"
    device_type = 5
    class_code = 0x00FF00
    queues = 4
    required_queues = (_INFLATE, _DEFLATE)
    features = UserspaceDevice.features | _F_STATS | _F_DEFLATE_ON_OOM | _F_REPORTING
    config = _CONFIG.pack(0, 0)

    def __init__(self, end_machine: Callable[[BaseException], None]) -> None:
        super().__init__(end_machine)
        self._statistics: dict[str, int] = {}
        self._statistics_updated = threading.Event()
        self._reported = 0

    def start(self, memory: Memory, queues: list[ActiveQueue], features: int) -> None:
        self._memory = memory
        # queues of features that the driver did not accept are left out of the numbering
        numbers = iter(range(2, self.queues))
        self._stats = next(numbers) if features & _F_STATS else -1
        self._reporting = next(numbers) if features & _F_REPORTING else -1
        self._statistics_request: Chain | None = None
        super().start(memory, queues, features)

    def write_config(self, offset: int, data: bytes) -> None:
        config = bytearray(self.config)
        for at, value in enumerate(data, offset):
            if at in _ACTUAL:
                config[at] = value
        self.config = bytes(config)

    def restore_config(self, config: bytes) -> bool:
        if len(config) != len(self.config):
            return False
        self.config = config  # the balloon's target and actual size
        return True

    # requests by the controller

    def set_target(self, mib: int) -> None:
        """Set the balloon's target size in MiB. Call with the buses' lock held."""
        _, actual = _CONFIG.unpack(self.config)
        self.config = _CONFIG.pack((mib << 20) // PAGE, actual)
        self.config_changed()

    def refresh(self) -> None:
        """Request new statistics. Returns when the guest has sent them, or after a second."""
        with self._lock:
            request = None if self._stopping.is_set() else self._statistics_request
            if request is None:
                return
            self._statistics_updated.clear()
            self._statistics_request = None
            self._complete(self._stats, request, 0)
        self._statistics_updated.wait(_STATISTICS_TIMEOUT)

    def counters(self) -> dict[str, int]:
        """The balloon's target and actual size in MiB, the reported memory in bytes, and the
        guest's last statistics."""
        target, actual = _CONFIG.unpack(self.config)
        return {
            "balloon_target": target * PAGE >> 20,
            "balloon_actual": actual * PAGE >> 20,
            "balloon_reported": self._reported,
            **{f"balloon_{name}": value for name, value in self._statistics.items()},
        }

    # queues

    def _on_kick(self, number: int) -> None:
        if number != self._stats:
            super()._on_kick(number)
            return
        with self._lock:
            for chain in self._queues[number].pop():
                if self._stopping.is_set():
                    return
                if self._statistics_request is not None:
                    self._complete(number, self._statistics_request, 0)
                # it stays open until the next statistics are requested
                self._statistics_request = chain
                pairs = _entries(chain, _STATISTIC)
                self._statistics = {_NAMES[tag]: value for tag, value in pairs if tag < len(_NAMES)}
                self._statistics_updated.set()

    def _handle_request(self, number: int, chain: Chain) -> int:
        if number == self._reporting:
            self._reported += sum(map(self._memory.discard, chain.writable))
        elif number == _INFLATE:
            pages = sorted({page for (page,) in _entries(chain, _PAGE_NUMBER)})
            for _, run in groupby(enumerate(pages), lambda item: item[1] - item[0]):
                adjacent = [page for _, page in run]
                start, size = adjacent[0] * PAGE, len(adjacent) * PAGE
                self._memory.discard(self._memory.view(start, size))
        # deflated pages need no action: the host allocates them when the guest touches them
        return 0


def _entries(chain: Chain, entry: struct.Struct) -> Iterator[tuple[int, ...]]:
    size = sum(map(len, chain.readable))
    if size > _LIMIT or size % entry.size:
        raise GuestFault(f"a virtio-balloon request of {size} bytes")
    return entry.iter_unpack(b"".join(chain.readable))
