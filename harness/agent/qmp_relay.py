"""Relays QMP between another VMM and the controller, whose client is harness/hosts/qmp.py.

Reference: QEMU Machine Protocol Specification (docs/interop/qmp-spec). Each message from QEMU is
one line that ends with CR LF.
"""

from __future__ import annotations

import json
import socket
import threading

from .control import Channel, LineReader


class QmpRelay:
    """Relays lines in both directions.

    Attributes:
        vmm_socket: the VMM's end; the caller passes it to the VMM and closes it.
        shutdown: why the machine stopped (QMP's ShutdownCause: "guest-reset", ...), "" before.
    """

    def __init__(self, channel: Channel) -> None:
        self._socket, self.vmm_socket = socket.socketpair()
        self._channel = channel
        self._reader = threading.Thread(target=self._relay, name="monitor", daemon=True)
        self.shutdown = ""

    def start(self) -> None:
        """Relay the VMM's lines as events from now on."""
        self._reader.start()

    def send(self, text: str) -> bool:
        """Send text to the VMM unchanged."""
        self._socket.sendall(text.encode())
        return True

    def finish(self) -> None:
        """Wait for the last lines, after the VMM has ended."""
        self._reader.join(1.0)

    def _relay(self) -> None:
        reader = LineReader()
        try:
            for data in iter(lambda: self._socket.recv(65536), b""):
                for line in reader.feed(data):
                    self._note_shutdown(line)
                    self._channel.event("monitor", text=line.decode("utf-8", "replace"))
        except (OSError, ValueError):
            pass  # the VMM has ended, or does not send QMP: the client's request times out

    def _note_shutdown(self, line: bytes) -> None:
        if b'"SHUTDOWN"' in line:
            message = json.loads(line)
            if isinstance(message, dict) and message.get("event") == "SHUTDOWN":
                data = message.get("data")
                self.shutdown = str(data.get("reason", "")) if isinstance(data, dict) else ""
