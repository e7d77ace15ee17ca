"""Detects a guest that keeps its VMM busy with exits to user space.

In steady state a guest causes no such exit, and a whole boot of Linux about 900. A loop of port
reads causes some 100,000 a second, which is all that the VMM can serve. Reads of the serial port do
not count: a kernel that prints much polls it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from harness.kvm.errors import MachineEnd

from .devices.serial import Serial
from .vcpu import VcpuThread

_SUSTAINED = 0.5  # seconds; with the interval before, a storm is detected within 1 s


class ExitStormDetector:
    """Detects a sustained rate of more than `limit` exits to user space a second; 0: never."""

    def __init__(self, vcpus: Sequence[VcpuThread], serial: Serial | None, limit: int) -> None:
        self.limit = limit
        self._vcpus = vcpus
        self._serial = serial
        self._last_calm = self._last_poll = time.monotonic()
        self._count = 0

    def poll(self) -> MachineEnd | None:
        """The end of a machine in a storm, or None. Call it about every tenth of a second."""
        now = time.monotonic()
        exits = sum(sum(vcpu.exits) for vcpu in self._vcpus)
        count = exits - (self._serial.reads if self._serial else 0)
        rate = (count - self._count) / max(now - self._last_poll, 1e-3)
        self._count, self._last_poll = count, now
        if not self.limit or rate <= self.limit:
            self._last_calm = now
        elif now - self._last_calm >= _SUSTAINED:
            detail = f"{rate:.0f} exits to user space a second; {self.limit} are allowed"
            return MachineEnd("exit-storm", detail)
        return None
