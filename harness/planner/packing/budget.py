"""The time of a search, and its interruption by Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType


class Budget:
    """Says when a search must end.

    cut: whether a search has ended before it was done. seconds: until then. stop: says so earlier.
    """

    def __init__(self, seconds: float, stop: Callable[[], bool] = lambda: False) -> None:
        self.started = time.monotonic()
        self.cut = False
        self._deadline = self.started + seconds
        self._stop = stop
        self._interrupted = False

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Seconds, 0.0 if the search must end."""
        if self._interrupted or self._stop():
            return 0.0
        return max(0.0, self._deadline - time.monotonic())

    def interrupted(self) -> bool:
        """Whether Ctrl-C or `stop` ends the search, whatever time is left. Call it only where work
        is left."""
        now = self._interrupted or self._stop()
        self.cut = self.cut or now
        return now

    def spent(self) -> bool:
        """Whether the search must end. Call it only where work is left."""
        self.cut = self.cut or not self.left
        return self.cut

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C ends the search during this block; a second one raises KeyboardInterrupt.

        A handler that the caller has installed is called, too.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread gets signals
            return
        previous = signal.getsignal(signal.SIGINT)

        def interrupt(number: int, frame: FrameType | None) -> None:
            if callable(previous) and previous is not signal.default_int_handler:
                previous(number, frame)
            elif self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        if previous is None:
            yield  # a handler that is not Python's cannot be put back
            return
        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)
