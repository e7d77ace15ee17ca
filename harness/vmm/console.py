"""The guest's console as lines with the host's time, and the kernel panics in them."""

from __future__ import annotations

import re
import threading
import time
from typing import Callable

_LINE_LIMIT = 4096
# The kernel's own messages: at a line's start or after a time stamp, which may follow a program's
# output without a newline. A program that prints the same text elsewhere does not match.
_MESSAGE_START = r"(?:^|\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? )"
_PANIC = re.compile(_MESSAGE_START + r"(Kernel panic - not syncing: .*)")
# the last message of a kernel that does not restart at once (panic() in linux/kernel/panic.c)
_HALT = re.compile(_MESSAGE_START + r"(---\[ end Kernel panic|Rebooting in \d+ seconds)")
# A flood of output is throttled, as a real serial line would, so that one reader keeps up with
# several guests: bytes per second, bytes of one burst, and bytes that each line costs in addition.
_RATE, _BURST, _LINE_COST = 2 << 20, 2 << 20, 256


class Console:
    """Splits output into lines with the time of each (CLOCK_MONOTONIC, ns).

    panic: the kernel's panic message, if there was one. It does not end the machine: a panicking
    kernel restarts the machine, or prints that it does not. halted: it printed that.
    """

    def __init__(self, emit: Callable[[int, str], None]) -> None:
        """emit: called with the time and the text of each line."""
        self._emit = emit
        self._line = bytearray()
        self._started = 0
        self._last_write = 0
        self._line_start = ""  # the emitted part of a line that has not ended
        self._lock = threading.Lock()
        self._budget = float(_BURST)
        self._budget_time = time.monotonic()
        self.panic: str | None = None
        self.halted = False

    def write_byte(self, value: int) -> None:
        """Write one byte: the fast path of the serial port."""
        with self._lock:
            self._last_write = time.monotonic_ns()
            if not self._line:
                self._started = self._last_write
            if value != 0x0A:
                self._line.append(value)
            if value == 0x0A or len(self._line) >= _LINE_LIMIT:
                self._flush(ended=value == 0x0A)
        self._throttle()

    def write(self, data: bytes) -> None:
        """Write bytes that may contain several lines."""
        with self._lock:
            self._last_write = time.monotonic_ns()
            while data:
                if not self._line:
                    self._started = self._last_write
                piece, ended, _ = data[: _LINE_LIMIT - len(self._line)].partition(b"\n")
                self._line += piece
                if ended or len(self._line) >= _LINE_LIMIT:
                    self._flush(ended=bool(ended))
                data = data[len(piece) + len(ended) :]
        self._throttle()

    def _throttle(self) -> None:
        """Delay a caller that writes too much. Without the lock, which other threads need."""
        if self._budget < 0:
            time.sleep(-self._budget / _RATE)

    def flush_stale(self, age: float) -> None:
        """Emit an unfinished line (a prompt) that has not grown for `age` seconds."""
        with self._lock:
            if self._line and time.monotonic_ns() - self._last_write > age * 1e9:
                self._flush(ended=False)

    def _flush(self, ended: bool) -> None:
        text = self._line.decode("utf-8", "replace").rstrip("\r")
        self._line.clear()
        line = self._line_start + text
        self._line_start = "" if ended else line[:_LINE_LIMIT]
        match = _PANIC.search(line) or _PANIC.match(text)
        # A slow guest's message may arrive in pieces. A second panic is not the cause.
        if match and (self.panic is None or match[1].startswith(self.panic)):
            self.panic = match[1].strip()
        self.halted = self.halted or bool(self.panic and _HALT.search(line))
        now = time.monotonic()
        self._budget = min(_BURST, self._budget + (now - self._budget_time) * _RATE)
        self._budget -= len(text) + _LINE_COST
        self._budget_time = now
        self._emit(self._started, text)
