"""QEMU's monitor protocol, as much of it as is needed: commands in, answers out."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

from harness.errors import HostError


class QMP:
    """A client over a connected socket. Safe to use from many threads.

    Reference: QEMU Machine Protocol Specification (docs/interop/qmp-spec).
    """

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._buffer = b""
        self._number = 0
        self._lock = threading.Lock()

    def handshake(self, timeout: float) -> None:
        """Take the greeting and leave negotiation mode."""
        with self._lock:
            self._stream.settimeout(timeout)
            self._read("the greeting")
        self.execute("qmp_capabilities", timeout=timeout)

    def execute(self, command: str, *, timeout: float = 10.0, **arguments: Any) -> Any:
        """One command; underscores in argument names stand for hyphens.

        Raises HostError when QEMU refuses, is late, or is gone.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        with self._lock:
            self._number += 1
            request = {"execute": command, "arguments": named, "id": self._number}
            try:
                self._stream.settimeout(timeout)
                self._stream.sendall(json.dumps(request).encode() + b"\n")
            except OSError as error:
                raise HostError(f"QEMU is gone at {command}: {error}", stage="host") from error
            while True:
                answer = self._read(command)
                if answer.get("id") != self._number:
                    continue  # an event, or the answer to a command that was given up as late
                if "error" in answer:
                    raise HostError(
                        f"QEMU refuses {command}: {answer['error'].get('desc')}", stage="host"
                    )
                return answer["return"]

    def _read(self, what: str) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            try:
                data = self._stream.recv(65536)
            except OSError as error:
                raise HostError(f"QEMU does not answer {what}: {error}", stage="host") from error
            if not data:
                raise HostError(f"QEMU is gone at {what}", stage="host")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Close the socket; QEMU stays."""
        self._stream.close()
