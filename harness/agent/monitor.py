"""A peer's monitor (QMP), relayed to the controller: its client is harness/hosts/qmp.py.

Reference: QEMU Machine Protocol Specification (docs/interop/qmp-spec): each message of QEMU's is a
line, ended by CR LF.
"""

from __future__ import annotations

import json
import socket
import threading

from .control import Channel, LineReader


class Monitor:
    """Attributes: theirs: the peer's end, which is its to close. shutdown: why the
    machine stopped (QMP's ShutdownCause: "guest-reset", ...), "" before."""

    def __init__(self, channel: Channel) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._channel = channel
        self._reader = threading.Thread(target=self._relay, name="monitor", daemon=True)
        self.shutdown = ""

    def start(self) -> None:
        """Relay what it says from now on."""
        self._reader.start()

    def send(self, text: str) -> bool:
        """To the peer, as it is."""
        self._ours.sendall(text.encode())
        return True

    def finish(self) -> None:
        """Once the peer has ended: nothing more is to come after this."""
        self._reader.join(1.0)

    def _relay(self) -> None:
        reader = LineReader()
        try:
            for data in iter(lambda: self._ours.recv(65536), b""):
                for line in reader.feed(data):
                    self._look(line)
                    self._channel.event("monitor", text=line.decode("utf-8", "replace"))
        except (OSError, ValueError):
            pass  # the peer has ended, or says what is no QMP: its client will miss the answer

    def _look(self, line: bytes) -> None:
        if b'"SHUTDOWN"' in line:
            message = json.loads(line)
            if isinstance(message, dict) and message.get("event") == "SHUTDOWN":
                about = message.get("data")
                self.shutdown = str(about.get("reason", "")) if isinstance(about, dict) else ""
