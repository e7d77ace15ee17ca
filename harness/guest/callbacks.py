"""Callbacks of a machine into the test: exit hooks and devices, one call at a time."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from harness.errors import HarnessError

Handler = Callable[[Mapping[str, Any]], "int | None"]


class Callbacks:
    """Runs the handlers of one guest on one thread, which starts with the first call.

    An exception in a handler ends the guest (reason "callback-error"). It is raised again when the
    test next uses the guest, or at the test's end. A handler that never returns blocks only its
    vCPU: the guest can still be stopped, and the thread is a daemon.
    """

    def __init__(self, guest: str) -> None:
        self._guest = guest
        self._messages: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._handlers: dict[tuple[str, int], Handler] = {}
        self._thread: threading.Thread | None = None
        self._errors: list[BaseException] = []
        self.ask: Callable[..., Any] | None = None
        # held while a handler is added, so that no call precedes it
        self.lock = threading.RLock()

    def add(self, kind: str, number: int, handler: Handler) -> None:
        """Add a handler. kind: "hook" or "device". number: the machine's number for it."""
        with self.lock:
            self._handlers[kind, number] = handler

    def remove(self, kind: str, number: int) -> None:
        """Remove a handler. Idempotent."""
        with self.lock:
            self._handlers.pop((kind, number), None)

    def enqueue(self, message: Mapping[str, Any]) -> None:
        """Queue a call. The hypervisor's reader thread calls this."""
        if self._thread is None:
            name = f"callbacks-{self._guest}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()
        self._messages.put(message)

    def close(self) -> None:
        """End the thread after the guest's end."""
        self._messages.put(None)

    def raise_error(self) -> None:
        """Raise the oldest pending exception of a handler, once."""
        if self._errors:
            raise self._errors.pop(0)

    def _run(self) -> None:
        while (message := self._messages.get()) is not None:
            reply: dict[str, Any] = {"call": message["call"]}
            try:
                reply["value"] = self._call_handler(message)
            # any exception, also pytest's outcomes, belongs to the test
            except BaseException as error:
                self._errors.append(error)
                text = "".join(traceback.format_exception_only(error)).strip()
                reply["error"] = f"in the test's own code: {text}"
            try:
                assert self.ask is not None  # noqa: S101 - set before the first handler
                self.ask("reply", **reply)
            except HarnessError:
                continue  # the guest has ended meanwhile

    def _call_handler(self, message: Mapping[str, Any]) -> int | None:
        kind = "hook" if message["event"] == "exit" else "device"
        with self.lock:
            handler = self._handlers.get((kind, message[kind]))
        value = handler(message) if handler else None
        if value is not None and not isinstance(value, int):
            raise TypeError(f"{value!r} is not an answer to an exit: return an int or None")
        return None if value is None else int(value)
