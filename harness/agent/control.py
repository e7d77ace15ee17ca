"""The guest process's side of the control protocol: JSON lines on one socket.

Requests: {"id": n, "guest": name, "op": ...}. Answers carry the id, and "error" or a result;
events carry "event". The protocol is the VMM's only interface (see supervisor). "files" of a
request, name to path, come as open descriptors with it: the operation gets files={name: descriptor}
and they are closed after it.
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
_FILES = 16  # descriptors that can be on their way at once


class LineReader:
    """Splits a stream into lines, bounded."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The whole lines that `data` completes. Raises ValueError for an endless one, once; the
        next line is whole again."""
        *lines, rest = (self._rest + data).split(b"\n")
        if self._skipping and lines:
            del lines[0]
            self._skipping = False
        self._rest = b"" if self._skipping else rest
        yield from lines
        if len(self._rest) > LINE_LIMIT:
            self._rest, self._skipping = b"", True
            raise ValueError(f"a control line is longer than {LINE_LIMIT} bytes")


class Channel:
    """The socket to the supervisor; events may come from any thread."""

    def __init__(self, guest: str, connection: socket.socket) -> None:
        self.guest = guest
        self.connection = connection
        self._lock = threading.Lock()
        self._files: list[int] = []

    def send(self, message: dict[str, Any]) -> None:
        line = json.dumps({"guest": self.guest, **message}).encode() + b"\n"
        with self._lock:
            self.connection.sendall(line)

    def event(self, event: str, **fields: Any) -> None:
        self.send({"event": event, **fields})

    def serve(self, operations: dict[str, Callable[..., Any]]) -> bool:
        """Answer requests until "stop" was answered (True) or the supervisor closed (False).

        No other request ends anything: a wrong one is answered with its error. Raises OSError,
        ValueError when the channel itself is of no use any more.
        """
        for request in self.requests():
            files = self._take_files(request)
            self.send({"id": request.get("id"), **_answer(operations, request, files)})
            if request.get("op") == "stop":  # answered first: what it ends may be this process
                return True
        return False

    def requests(self) -> Iterator[dict[str, Any]]:
        """Requests until the supervisor closes the socket."""
        reader = LineReader()
        while True:
            data, files, _, _ = socket.recv_fds(self.connection, 65536, _FILES)
            self._files += files
            if not data:
                return
            for line in reader.feed(data):
                yield json.loads(line)

    def _take_files(self, request: dict[str, Any]) -> dict[str, int]:
        names = list(request.get("files") or ())
        taken, self._files = self._files[: len(names)], self._files[len(names) :]
        return dict(zip(names, taken))


def _answer(
    operations: dict[str, Callable[..., Any]], request: dict[str, Any], files: dict[str, int]
) -> dict[str, Any]:
    """The result or the error of one request."""
    operation = operations.get(str(request.get("op")))
    more = {"files": files} if files else {}
    try:
        if operation is None:
            return {"error": {"cause": f"unknown operation {request.get('op')!r:.80}"}}
        return {"result": operation(**request.get("arguments", {}), **more)}
    except ConfigError as error:
        return {"error": {"cause": error.cause, "hint": error.hint}}
    except Exception as error:
        return {"error": {"cause": f"{type(error).__name__}: {error}"}}
    finally:
        for fd in files.values():
            os.close(fd)
