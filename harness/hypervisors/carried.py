"""A QEMU's monitor that is reached by the supervisor's control protocol: a socket that is not."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from harness.errors import HarnessError
from harness.qmp import Monitor


class Carried:
    """send: carries text to the peer. monitor: the client."""

    def __init__(self, send: Callable[[str], object]) -> None:
        self._near, far = socket.socketpair()
        self._send = send
        threading.Thread(target=self._forward, name="monitor", daemon=True).start()
        self.monitor = Monitor(far)

    def hear(self, line: str) -> None:
        """What the peer says.

        More than a socket holds, with nobody to read it, cannot be kept: that ends the monitor,
        and not the thread that reads for all guests.
        """
        data = line.encode() + b"\n"
        with contextlib.suppress(OSError):
            if self._near.send(data, socket.MSG_DONTWAIT) < len(data):
                self._near.shutdown(socket.SHUT_RDWR)

    def _forward(self) -> None:
        with contextlib.suppress(OSError, HarnessError):  # closed, or the guest has ended
            while data := self._near.recv(65536):
                self._send(data.decode())
        with contextlib.suppress(OSError):
            self._near.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Idempotent."""
        with contextlib.suppress(OSError):
            self._near.shutdown(socket.SHUT_RDWR)
        self.monitor.close()
        self._near.close()
