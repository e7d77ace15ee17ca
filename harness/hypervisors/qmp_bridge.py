"""A QMP client for a monitor that the agent relays as lines of text."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable

from harness.errors import HarnessError
from harness.hosts.qmp import Monitor

_MAX_LINES = 1000  # in the queue


class QmpBridge:
    """Connects a QMP client by a socket pair.

    send: carries text to the VMM. monitor: the client.
    """

    def __init__(self, send: Callable[[str], object]) -> None:
        self._near, far = socket.socketpair()
        self._send = send
        self._lines: queue.Queue[bytes] = queue.Queue(_MAX_LINES)
        for target in (self._forward, self._deliver):
            threading.Thread(target=target, name="monitor", daemon=True).start()
        self.monitor = Monitor(far)

    def receive(self, line: str) -> None:
        """Take a line from the VMM. It never waits, since it runs in the thread that reads for all
        guests. A full queue ends the monitor."""
        try:
            self._lines.put_nowait(line.encode() + b"\n")
        except queue.Full:
            self._disconnect()

    def _deliver(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while data := self._lines.get():
                self._near.sendall(data)

    def _forward(self) -> None:
        with contextlib.suppress(OSError, HarnessError):  # closed, or the guest has ended
            while data := self._near.recv(65536):
                self._send(data.decode())
        self._disconnect()

    def _disconnect(self) -> None:
        with contextlib.suppress(OSError):
            self._near.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Idempotent."""
        self._disconnect()
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(b"")
        self.monitor.close()
        self._near.close()
