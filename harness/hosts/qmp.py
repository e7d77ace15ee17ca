"""A blocking client for QEMU's monitor. Any thread may call it."""

# ruff: noqa: PLC0415 - sessions without QEMU never load qemu.qmp
from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from harness.errors import HostError

# its errors are raised here, so its log lines would repeat them
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
_CLOSE_TIMEOUT = 2.0

_T = TypeVar("_T")


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all monitors. It runs until this process ends."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="qmp", daemon=True).start()
    return loop


class Monitor:
    """A client over a connected socket, which it then owns. It answers QEMU's greeting.

    QEMU sends events only to clients that have answered its greeting.

    Reference: QEMU Machine Protocol Specification (docs/interop/qmp-spec).
    """

    def __init__(self, stream: socket.socket, greeting_timeout: float = 20.0) -> None:
        from qemu.qmp import QMPClient

        self._stream = stream
        self._client = QMPClient()
        self._greeting = _start(self._client.connect(stream), greeting_timeout)

    def execute(self, command: str, *, timeout: float = 10.0, **arguments: Any) -> Any:
        """Run one command and return its result.

        Underscores in argument names become hyphens. Raises HostError when QEMU refuses, does not
        answer within `timeout` seconds, or has ended.
        """
        hyphenated = {name.replace("_", "-"): value for name, value in arguments.items()}
        _finish("the greeting", self._greeting, timeout)
        return _finish(command, _start(self._client.execute(command, hyphenated), timeout))

    def close(self) -> None:
        """Close the socket. QEMU continues to run. Idempotent."""
        with contextlib.suppress(OSError):  # already closed
            self._stream.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(HostError):  # a pending greeting fails now
            _finish("the greeting", self._greeting, _CLOSE_TIMEOUT)
        with contextlib.suppress(HostError):  # it raises the connection's error again
            _finish("disconnect", _start(self._client.disconnect(), _CLOSE_TIMEOUT))
        self._stream.close()


def _start(coroutine: Coroutine[Any, Any, _T], timeout: float) -> Future[_T]:
    async def bounded() -> _T:
        return await asyncio.wait_for(coroutine, timeout)

    return asyncio.run_coroutine_threadsafe(bounded(), _loop())


def _finish(command: str, future: Future[_T], timeout: float | None = None) -> _T:
    from qemu.qmp import ExecuteError

    try:
        return future.result(timeout)
    except ExecuteError as error:
        raise HostError(
            f"QEMU refuses {command}: {error}", hint="check its arguments", stage="host"
        ) from error
    except TimeoutError as error:
        raise HostError(
            f"QEMU does not answer {command} in time",
            hint="check what keeps the machine busy",
            stage="host",
        ) from error
    except Exception as error:  # an error of the stream or of the protocol
        raise HostError(
            f"QEMU is gone at {command}: {error}",
            hint="read QEMU's last messages",
            stage="host",
        ) from error
