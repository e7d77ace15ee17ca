"""Questions that a machine asks the test: its callbacks and devices answer, one at a time."""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from harness.errors import HarnessError

Answerer = Callable[[Mapping[str, Any]], "int | None"]


class Callbacks:
    """Runs the answers of one guest on a thread of its own, made for the first question.

    An exception in one ends the guest (reason "callback-error") and is raised again where the test
    next turns to the guest, or at the test's end. A callback that never returns holds up its vCPU,
    and nothing else: the guest can be stopped, and the thread does not outlive the process.
    """

    def __init__(self, guest: str) -> None:
        self._guest = guest
        self._messages: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._answerers: dict[tuple[str, int], Answerer] = {}
        self._thread: threading.Thread | None = None
        self._errors: list[BaseException] = []
        self.ask: Callable[..., Any] | None = None
        # held while an answerer is made known, so that no question comes before
        self.lock = threading.RLock()

    def add(self, kind: str, number: int, answerer: Answerer) -> None:
        """kind: "hook" or "device". number: as the machine calls it."""
        with self.lock:
            self._answerers[kind, number] = answerer

    def remove(self, kind: str, number: int) -> None:
        with self.lock:
            self._answerers.pop((kind, number), None)

    def put(self, message: Mapping[str, Any]) -> None:
        """A question, on the hypervisor's reader thread."""
        if self._thread is None:
            name = f"callbacks-{self._guest}"
            self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
            self._thread.start()
        self._messages.put(message)

    def close(self) -> None:
        """The guest has ended: nobody asks any more."""
        self._messages.put(None)

    def raise_error(self) -> None:
        """Raise what a callback raised, once."""
        if self._errors:
            raise self._errors.pop(0)

    def _serve(self) -> None:
        while (message := self._messages.get()) is not None:
            reply: dict[str, Any] = {"call": message["call"]}
            try:
                reply["value"] = self._answer(message)
            # whatever it is, also pytest's own outcomes, it is the test's
            except BaseException as error:
                self._errors.append(error)
                said = "".join(traceback.format_exception_only(error)).strip()
                reply["error"] = f"in the test's own code: {said}"
            try:
                assert self.ask is not None  # noqa: S101 - who adds an answerer has set it
                self.ask("reply", **reply)
            except HarnessError:
                continue  # the guest has ended meanwhile

    def _answer(self, message: Mapping[str, Any]) -> int | None:
        kind = "hook" if message["event"] == "exit" else "device"
        with self.lock:
            answerer = self._answerers.get((kind, message[kind]))
        value = answerer(message) if answerer else None
        if value is not None and not isinstance(value, int):
            raise TypeError(f"{value!r} answers an exit: it must be a whole number, or None")
        return None if value is None else int(value)
