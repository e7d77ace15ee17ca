"""Looks at a running machine from time to time: does the guest keep its VMM busy with exits?

In steady state a guest causes no exit to user space, and a whole boot of Linux about 900; a loop of
port reads causes all that the VMM can serve (some 100,000 a second), for as long as it likes. The
serial port's reads do not count: a kernel that has much to say polls it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from harness.kvm.errors import MachineEnd

from .devices.serial import Serial
from .vcpu import VcpuThread

_SUSTAINED = 0.5  # seconds that every look must have seen too many: with the look before, below 1 s


class ExitStormDetector:
    """More than `limit` exits to user space a second, sustained; with a limit of 0 never."""

    def __init__(self, vcpus: Sequence[VcpuThread], serial: Serial | None, limit: int) -> None:
        self.limit = limit
        self._vcpus = vcpus
        self._serial = serial
        self._calm = self._last = time.monotonic()
        self._count = 0

    def look(self) -> MachineEnd | None:
        """The end of a machine in a storm. Call it about every tenth of a second."""
        now = time.monotonic()
        exits = sum(sum(vcpu.exits) for vcpu in self._vcpus)
        count = exits - (self._serial.reads if self._serial else 0)
        rate = (count - self._count) / max(now - self._last, 1e-3)
        self._count, self._last = count, now
        if not self.limit or rate <= self.limit:
            self._calm = now
        elif now - self._calm >= _SUSTAINED:
            detail = f"{rate:.0f} exits to user space a second; {self.limit} are allowed"
            return MachineEnd("exit-storm", detail)
        return None
