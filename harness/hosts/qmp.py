"""A QEMU's monitor for code that is not asynchronous: commands in, answers out, from any thread."""

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

from qemu.qmp import ExecuteError, QMPClient

from harness.errors import HostError

# what it has to say is raised as an error here, and told by whoever asked
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
_CLOSE_TIMEOUT = 2.0

_T = TypeVar("_T")


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """Runs for as long as this process: one for all monitors."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="qmp", daemon=True).start()
    return loop


class Monitor:
    """A client over a connected socket, which becomes its own; it takes the greeting by itself.

    QEMU tells events to those alone who have answered its greeting.

    Reference: QEMU Machine Protocol Specification (docs/interop/qmp-spec).
    """

    def __init__(self, stream: socket.socket, greeting_timeout: float = 20.0) -> None:
        self._stream = stream
        self._client = QMPClient()
        self._greeted = _start(self._client.connect(stream), greeting_timeout)

    def execute(self, command: str, *, timeout: float = 10.0, **arguments: Any) -> Any:
        """One command; underscores in argument names stand for hyphens.

        Raises HostError when QEMU refuses, is late, or is gone.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        _finish("the greeting", self._greeted, timeout)
        return _finish(command, _start(self._client.execute(command, named), timeout))

    def close(self) -> None:
        """Close the socket; QEMU stays. Idempotent."""
        with contextlib.suppress(OSError):  # it may be closed already
            self._stream.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(HostError):  # one that is still waited for comes to its end
            _finish("the greeting", self._greeted, _CLOSE_TIMEOUT)
        with contextlib.suppress(HostError):  # it tells once more why the connection ended
            _finish("disconnect", _start(self._client.disconnect(), _CLOSE_TIMEOUT))
        self._stream.close()


def _start(doing: Coroutine[Any, Any, _T], timeout: float) -> Future[_T]:
    async def bounded() -> _T:
        return await asyncio.wait_for(doing, timeout)

    return asyncio.run_coroutine_threadsafe(bounded(), _loop())


def _finish(what: str, doing: Future[_T], timeout: float | None = None) -> _T:
    try:
        return doing.result(timeout)
    except ExecuteError as error:
        raise HostError(f"QEMU refuses {what}: {error}", stage="host") from error
    except TimeoutError as error:
        raise HostError(f"QEMU does not answer {what} in time", stage="host") from error
    except Exception as error:  # of the stream, or of what came on it
        raise HostError(f"QEMU is gone at {what}: {error}", stage="host") from error
