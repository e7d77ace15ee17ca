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
        self._file = stream.makefile("rb")
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
        request = json.dumps({"execute": command, "arguments": named}).encode() + b"\n"
        with self._lock:
            try:
                self._stream.settimeout(timeout)
                self._stream.sendall(request)
            except OSError as error:
                raise HostError(f"QEMU is gone at {command}: {error}", stage="host") from error
            while True:  # events may come before the answer
                answer = self._read(command)
                if "return" in answer:
                    return answer["return"]
                if "error" in answer:
                    raise HostError(
                        f"QEMU refuses {command}: {answer['error'].get('desc')}", stage="host"
                    )

    def _read(self, what: str) -> dict[str, Any]:
        try:
            line = self._file.readline()
        except OSError as error:
            raise HostError(f"QEMU does not answer {what}: {error}", stage="host") from error
        if not line:
            raise HostError(f"QEMU is gone at {what}", stage="host")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Close the socket; QEMU stays."""
        self._file.close()
        self._stream.close()
