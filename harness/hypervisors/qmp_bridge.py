"""A QEMU's monitor that is reached by the supervisor's control protocol: a socket that is not."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable

from harness.errors import HarnessError
from harness.hosts.qmp import Monitor

_LINES = 1000  # that wait at most


class QmpBridge:
    """send: carries text to the peer. monitor: the client."""

    def __init__(self, send: Callable[[str], object]) -> None:
        self._near, far = socket.socketpair()
        self._send = send
        self._said: queue.Queue[bytes] = queue.Queue(_LINES)
        for target in (self._forward, self._deliver):
            threading.Thread(target=target, name="monitor", daemon=True).start()
        self.monitor = Monitor(far)

    def receive(self, line: str) -> None:
        """What the peer says. Never waits: this is the thread that reads for all guests. More than
        can be kept ends the monitor."""
        try:
            self._said.put_nowait(line.encode() + b"\n")
        except queue.Full:
            self._cut()

    def _deliver(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while data := self._said.get():
                self._near.sendall(data)

    def _forward(self) -> None:
        with contextlib.suppress(OSError, HarnessError):  # closed, or the guest has ended
            while data := self._near.recv(65536):
                self._send(data.decode())
        self._cut()

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self._near.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Idempotent."""
        self._cut()
        with contextlib.suppress(queue.Full):
            self._said.put_nowait(b"")
        self.monitor.close()
        self._near.close()
