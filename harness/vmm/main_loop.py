"""The main thread of a running machine: it waits for the end and does periodic work meanwhile."""

from __future__ import annotations

import queue
import traceback
from collections.abc import Sequence

from harness.kvm.errors import GuestFault, MachineEnd

from .console import Console
from .devices.bus import Buses
from .devices.virtio.transport import Backend
from .exit_storm import ExitStormDetector

_INTERVAL = 0.1  # seconds between two rounds of periodic work
_RESTART_REASONS = ("reset", "triple-fault")  # how a panicking kernel ends its machine


class MainLoop:
    """ends: what any thread puts there ends the machine; the first one counts."""

    def __init__(
        self,
        ends: queue.Queue[BaseException],
        buses: Buses,
        backends: Sequence[Backend],
        consoles: Sequence[Console],
        exit_storm: ExitStormDetector,
    ) -> None:
        """consoles: the first one shows the kernel's messages."""
        self._ends = ends
        self._buses = buses
        self._backends = backends
        self._consoles = consoles
        self._exit_storm = exit_storm

    def wait_end(self) -> tuple[str, str]:
        """Wait for the machine's end. Returns its reason, a word of the control protocol, and its
        detail."""
        reason, detail = _describe(self._wait())
        self.drain()  # the panic's last line may still be in the ring
        self._flush_consoles(0)
        panic = self._consoles[0].panic
        if panic is not None and reason in _RESTART_REASONS:
            return "panic", panic
        return reason, detail

    def _wait(self) -> BaseException:
        while True:
            try:
                return self._ends.get(timeout=_INTERVAL)
            except queue.Empty:
                self.drain()
                self._poll_backends()
                self._flush_consoles(_INTERVAL)
            if self._consoles[0].halted:
                return MachineEnd("panic", self._consoles[0].panic or "")
            if end := self._exit_storm.poll():
                return end

    def drain(self) -> None:
        """Handle the writes that wait in the ring of coalesced writes."""
        # with a timeout: a slow device may hold the lock, and must not delay an end
        if not self._buses.lock.acquire(timeout=_INTERVAL):
            return
        try:
            self._buses.drain()
        except (GuestFault, MachineEnd) as end:
            self._ends.put(end)
        finally:
            self._buses.lock.release()

    def _poll_backends(self) -> None:
        try:
            for backend in self._backends:
                backend.poll()
        except (GuestFault, MachineEnd) as end:
            self._ends.put(end)

    def _flush_consoles(self, age: float) -> None:
        for console in self._consoles:
            console.flush_stale(age)


def _describe(error: BaseException) -> tuple[str, str]:
    """The reason and the detail of an end."""
    if isinstance(error, MachineEnd):
        return error.reason, error.detail
    if isinstance(error, GuestFault):
        return "guest-fault", str(error)
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return "vmm-error", text[-4000:]
