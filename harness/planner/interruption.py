"""Ctrl-C during a long computation: the first one asks it to end soon, the second one ends it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")
_POLL = 0.1  # s

NOTICE = "\nInterrupted: the best so far will be used. Press Ctrl-C again to stop without it.\n"


def run_interruptible(work: Callable[[Callable[[], bool]], Result]) -> Result:
    """Run `work(stop)` in a thread, and return its result or raise its error.

    stop: returns True after a Ctrl-C. A second Ctrl-C raises KeyboardInterrupt here. Python handles
    signals in the main thread alone, between two of its instructions: a thread of its own lets it
    do so while the work is in a long call of a library.
    """
    stopped = threading.Event()
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work(stopped.is_set))
        except BaseException as error:
            future.set_exception(error)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()
        sys.stderr.write(NOTICE)

    thread = threading.Thread(target=run, name="plan", daemon=True)
    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        thread.start()
        while thread.is_alive():
            thread.join(_POLL)
    finally:
        signal.signal(signal.SIGINT, previous)
    return future.result()
