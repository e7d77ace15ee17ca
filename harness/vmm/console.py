"""The guest's console as lines with the host's time, and what they say of the guest's end."""

from __future__ import annotations

import re
import threading
import time
from typing import Callable

_LINE_LIMIT = 4096
# at a line's start or after the kernel's time stamp (what a program printed last may have had no
# newline): not wherever a program says it
_KERNEL_SAYS = r"(?:^|\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? )"
_PANIC = re.compile(_KERNEL_SAYS + r"(Kernel panic - not syncing: .*)")
# what it says at last if it does not restart at once (panic() of linux/kernel/panic.c)
_STAYS = re.compile(_KERNEL_SAYS + r"(---\[ end Kernel panic|Rebooting in \d+ seconds)")
# A flood is held up as a real port's line would, far above what that carries: whoever reads all
# guests' lines must keep up with several. Bytes a second, in one burst, and for a line beside them.
_RATE, _BURST, _LINE_COST = 2 << 20, 2 << 20, 256


class Console:
    """Collects bytes into lines and hands each on with its time (CLOCK_MONOTONIC, ns).

    panic: the kernel's panic message, once it was seen. It alone ends nothing: a panicking kernel
    restarts the machine, or says that it will not: halted.
    """

    def __init__(self, emit: Callable[[int, str], None]) -> None:
        self._emit = emit
        self._line = bytearray()
        self._started = 0
        self._touched = 0
        self._before = ""  # what was handed on of a line that had not ended
        self._lock = threading.Lock()
        self._credit = float(_BURST)
        self._paid = time.monotonic()
        self.panic: str | None = None
        self.halted = False

    def write_byte(self, value: int) -> None:
        """The same as `write` for a single one: a serial port's come so, by the thousand."""
        with self._lock:
            self._touched = time.monotonic_ns()
            if not self._line:
                self._started = self._touched
            if value != 0x0A:
                self._line.append(value)
            if value == 0x0A or len(self._line) >= _LINE_LIMIT:
                self._flush(ended=value == 0x0A)
        self._throttle()

    def write(self, data: bytes) -> None:
        with self._lock:
            self._touched = time.monotonic_ns()
            while data:
                if not self._line:
                    self._started = self._touched
                piece, ended, _ = data[: _LINE_LIMIT - len(self._line)].partition(b"\n")
                self._line += piece
                if ended or len(self._line) >= _LINE_LIMIT:
                    self._flush(ended=bool(ended))
                data = data[len(piece) + len(ended) :]
        self._throttle()

    def _throttle(self) -> None:
        """Let who writes too much wait, without our lock: others need it meanwhile."""
        if self._credit < 0:
            time.sleep(-self._credit / _RATE)

    def flush_stale(self, age: float) -> None:
        """Hand on an unfinished line (a prompt) that nothing was added to for `age` seconds."""
        with self._lock:
            if self._line and time.monotonic_ns() - self._touched > age * 1e9:
                self._flush(ended=False)

    def _flush(self, ended: bool) -> None:
        text = self._line.decode("utf-8", "replace").rstrip("\r")
        self._line.clear()
        said = self._before + text
        self._before = "" if ended else said[:_LINE_LIMIT]
        found = _PANIC.search(said) or _PANIC.match(text)
        # a slow guest's message may come in pieces; a second panic is not the cause
        if found and (self.panic is None or found[1].startswith(self.panic)):
            self.panic = found[1].strip()
        self.halted = self.halted or bool(self.panic and _STAYS.search(said))
        now = time.monotonic()
        self._credit = min(_BURST, self._credit + (now - self._paid) * _RATE)
        self._credit -= len(text) + _LINE_COST
        self._paid = now
        self._emit(self._started, text)
