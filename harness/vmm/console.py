"""The guest's console as lines with the host's time, and what they say of the guest's end."""

from __future__ import annotations

import re
import threading
import time
from typing import Callable

_LINE_LIMIT = 4096
# at a line's start, after the kernel's time stamp: not whatever a program prints
_PANIC = re.compile(r"^(?:\[ *\d+\.\d+\] )?Kernel panic - not syncing: (.*)")


class Console:
    """Collects bytes into lines and hands each on with its time (CLOCK_MONOTONIC, ns).

    panic: the text after the kernel's panic message, once it was seen.
    """

    def __init__(self, emit: Callable[[int, str], None]) -> None:
        self._emit = emit
        self._line = bytearray()
        self._started = 0
        self._before = ""  # what was handed on of a line that had not ended
        self._lock = threading.Lock()
        self.panic: str | None = None

    def byte(self, value: int) -> None:
        with self._lock:
            if not self._line:
                self._started = time.monotonic_ns()
            if value != 0x0A:
                self._line.append(value)
            if value == 0x0A or len(self._line) >= _LINE_LIMIT:
                self._flush(ended=value == 0x0A)

    def flush_stale(self, age: float) -> None:
        """Hand on an unfinished line (a prompt) that is older than `age` seconds."""
        with self._lock:
            if self._line and time.monotonic_ns() - self._started > age * 1e9:
                self._flush(ended=False)

    def _flush(self, ended: bool) -> None:
        text = self._line.decode("utf-8", "replace").rstrip("\r")
        self._line.clear()
        said = self._before + text
        self._before = "" if ended else said[:_LINE_LIMIT]
        found = _PANIC.match(said) or _PANIC.match(text)
        # a slow guest's message may come in pieces; a second panic is not the cause
        if found and (self.panic is None or found[1].startswith(self.panic)):
            self.panic = found[1].strip()
        self._emit(self._started, text)
