"""JSON lines: the streams of the control protocol, and a guest process's end of it.

`supervisor` documents the protocol.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any, Callable

from harness.kvm.errors import ConfigError

LINE_LIMIT = 1 << 20
_FILES_LIMIT = 16  # descriptors in one message


class LineReader:
    """Splits a stream into lines of limited length."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that `data` completes, without their newline.

        Raises ValueError once for each line above LINE_LIMIT, which is dropped to its end.
        """
        *lines, rest = (self._rest + data).split(b"\n")
        if self._skipping and lines:
            del lines[0]
            self._skipping = False
        self._rest = b"" if self._skipping else rest
        yield from lines
        if len(self._rest) > LINE_LIMIT:
            self._rest, self._skipping = b"", True
            raise ValueError(f"a control line is longer than {LINE_LIMIT} bytes")


class MessageWriter:
    """Writes messages to a descriptor, from one thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def send(self, message: dict[str, Any]) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, line: bytes) -> None:
        """line: an encoded message with its newline."""
        view = memoryview(line)
        while view:
            view = view[os.write(self._fd, view) :]


class Channel:
    """A guest process's connection to the supervisor; any thread may send."""

    def __init__(self, guest: str, connection: socket.socket) -> None:
        self.guest = guest
        self.connection = connection
        self._lock = threading.Lock()
        self._descriptors: list[int] = []  # received, not yet part of a request

    def send(self, message: dict[str, Any]) -> None:
        line = json.dumps({"guest": self.guest, **message}).encode() + b"\n"
        with self._lock:
            self.connection.sendall(line)

    def event(self, event: str, **fields: Any) -> None:
        self.send({"event": event, **fields})

    def serve(self, operations: dict[str, Callable[..., Any]]) -> bool:
        """Answer requests until "stop" is answered (True) or the supervisor closes (False).

        A request with "files" calls its operation with files={name: descriptor}. The descriptors
        are closed afterwards. A failed operation is answered by its error. Raises OSError or
        ValueError when the channel itself fails.
        """
        for request in self.requests():
            files = self._take_files(request)
            self.send({"id": request.get("id"), **answer_request(operations, request, files)})
            if request.get("op") == "stop":  # after the answer: the caller may end this process
                return True
        return False

    def requests(self) -> Iterator[dict[str, Any]]:
        """Requests until the supervisor closes the socket."""
        reader = LineReader()
        while True:
            data, descriptors, _, _ = socket.recv_fds(self.connection, 65536, _FILES_LIMIT)
            self._descriptors += descriptors
            if not data:
                return
            for line in reader.feed(data):
                yield json.loads(line)

    def _take_files(self, request: dict[str, Any]) -> dict[str, int]:
        names = list(request.get("files") or ())
        count = len(names)
        files = dict(zip(names, self._descriptors[:count]))
        del self._descriptors[:count]
        return files


def answer_request(
    operations: dict[str, Callable[..., Any]], request: dict[str, Any], files: dict[str, int]
) -> dict[str, Any]:
    """The "result" or "error" of one request; closes its files."""
    operation = operations.get(str(request.get("op")))
    keywords = {"files": files} if files else {}
    try:
        if operation is None:
            return {"error": {"cause": f"unknown operation {request.get('op')!r:.80}"}}
        return {"result": operation(**request.get("arguments", {}), **keywords)}
    except ConfigError as error:
        return {"error": {"cause": error.cause, "hint": error.hint}}
    except Exception as error:
        return {"error": {"cause": f"{type(error).__name__}: {error}"}}
    finally:
        for fd in files.values():
            os.close(fd)
