"""virtio-balloon (virtio 1.2, 5.5): memory that the guest can do without goes back to the host.

By inflating, on request; and by free page reporting, which the guest does on its own two seconds
after it freed a larger block. What is given back reads as zero when the guest touches it again.
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
_CONFIG = struct.Struct("<II8x")  # num_pages, actual; the rest is for features not offered
_ACTUAL = range(4, 8)
_PAGE_NUMBER = struct.Struct("<I")
_STATISTIC = struct.Struct("<HQ")  # tag, value
# by tag (5.5.6.3); bytes but for the faults, which are counts
_NAMES = (
    "swap_in", "swap_out", "major_faults", "minor_faults", "free_memory", "total_memory",
    "available_memory", "disk_caches", "hugetlb_allocations", "hugetlb_failures",
)  # fmt: skip
_LIMIT = 1 << 16  # bytes of a list of pages or statistics; Linux's have 1,024 and 100
_PATIENCE = 1.0  # seconds that a guest has to tell its statistics


class Balloon(UserspaceDevice):
    """The balloon. Pages are of 4 KiB, whatever the host maps: its huge pages are split then, but
    not by free page reporting, which comes in blocks of 2 MiB and more."""

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
        self._told = threading.Event()
        self._reported = 0

    def start(self, memory: Memory, queues: list[ActiveQueue], features: int) -> None:
        self._memory = memory
        # queues of features that were not taken are left out, and the others move up
        after = iter(range(2, self.queues))
        self._stats = next(after) if features & _F_STATS else -1
        self._reporting = next(after) if features & _F_REPORTING else -1
        self._held: Chain | None = None
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
        self.config = config  # what it should hold and holds
        return True

    # what is asked from outside

    def set_target(self, mib: int) -> None:
        """Ask the guest to put so much into the balloon. Call with the buses' lock held."""
        _, actual = _CONFIG.unpack(self.config)
        self.config = _CONFIG.pack((mib << 20) // PAGE, actual)
        self.config_changed()

    def refresh(self) -> None:
        """Have the guest tell its statistics anew; returns when it did, or after a second."""
        with self._lock:
            held = None if self._stopping.is_set() else self._held
            if held is None:
                return
            self._told.clear()
            self._held = None
            self._complete(self._stats, held, 0)
        self._told.wait(_PATIENCE)

    def counters(self) -> dict[str, int]:
        """In MiB what the balloon should hold and holds, in bytes what it got back by reports;
        the guest's own statistics as it told them last."""
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
                if self._held is not None:
                    self._complete(number, self._held, 0)
                # it stays with us until we want to know more
                self._held = chain
                told = _entries(chain, _STATISTIC)
                self._statistics = {_NAMES[tag]: value for tag, value in told if tag < len(_NAMES)}
                self._told.set()

    def _handle_request(self, number: int, chain: Chain) -> int:
        if number == self._reporting:
            self._reported += sum(map(self._memory.discard, chain.writable))
        elif number == _INFLATE:
            pages = sorted({page for (page,) in _entries(chain, _PAGE_NUMBER)})
            for _, run in groupby(enumerate(pages), lambda item: item[1] - item[0]):
                together = [page for _, page in run]
                start, size = together[0] * PAGE, len(together) * PAGE
                self._memory.discard(self._memory.view(start, size))
        # deflated pages need nothing: what the guest touches is there again
        return 0


def _entries(chain: Chain, entry: struct.Struct) -> Iterator[tuple[int, ...]]:
    size = sum(map(len, chain.readable))
    if size > _LIMIT or size % entry.size:
        raise GuestFault(f"a virtio-balloon request of {size} bytes")
    return entry.iter_unpack(b"".join(chain.readable))
