"""A guest's console: the last lines in memory, all lines in a file."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import TextIO


class Console:
    """Console lines in the order of their arrival. Thread-safe.

    Args:
        path: a file for every line with the seconds since the first line; None for no file. Its
            directory is created.
        max_lines: the number of last lines in memory.
        max_bytes: the size at which the file stops growing. close() then adds the last lines.
    """

    def __init__(
        self, path: Path | None = None, max_lines: int = 2000, max_bytes: int = 16 << 20
    ) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._written = 0  # lines in the file
        self._size = 0  # characters in the file
        self._lines: deque[tuple[int, str]] = deque(maxlen=max_lines)
        self._changed = threading.Condition()
        self._start: int | None = None
        self._count = 0
        self._file: TextIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Line buffering: the file is complete even if the session is killed.
            self._file = path.open("w", encoding="utf-8", errors="replace", buffering=1)

    def add(self, time_ns: int, text: str) -> None:
        """Add one line with its time in nanoseconds."""
        with self._changed:
            if self._start is None:
                self._start = time_ns
            self._lines.append((time_ns, text))
            self._count += 1
            # a guest that prints without end must not fill the disk
            if self._size < self._max_bytes:
                self._write(f"[{(time_ns - self._start) / 1e9:10.6f}] {text}\n")
                self._written += 1
            self._changed.notify_all()

    def _write(self, text: str) -> None:
        self._size += len(text)
        if self._file is not None:
            try:
                self._file.write(text)
            except OSError:
                # A full disk must not end the reader thread. The lines stay in memory.
                self._file = None

    def tail(self, count: int = 20) -> list[str]:
        """The last lines, oldest first."""
        with self._changed:
            return [text for _, text in self._lines][-count:] if count > 0 else []

    def time_of(self, text: str) -> int:
        """The host's time (ns) of the last line in memory with `text`. Raises KeyError."""
        with self._changed:
            for time_ns, line in reversed(self._lines):
                if text in line:
                    return time_ns
        raise KeyError(text)

    def wait_for(self, text: str, timeout: float) -> str:
        """Wait for a line with `text` and return it. Lines in memory count.

        Raises TimeoutError after `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(
                lambda: any(text in line for _, line in self._lines), timeout
            ):
                raise TimeoutError(f"no console line with {text!r} within {timeout:g} s")
            return next(line for _, line in reversed(self._lines) if text in line)

    def __len__(self) -> int:
        """The number of lines so far."""
        with self._changed:
            return self._count

    def close(self, *, discard: bool = False) -> None:
        """Close the file. discard: remove it as well."""
        with self._changed:
            if self._file is not None and self._count > self._written:
                last = list(self._lines)[self._written - self._count :]
                omitted = self._count - self._written - len(last)
                self._write(f"[... {self._max_bytes} bytes reached: {omitted} lines omitted ...]\n")
                self._write("".join(f"{line}\n" for _, line in last))
                self._written = self._count
            if self._file is not None:
                self._file.close()
                self._file = None
        if discard and self.path is not None:
            self.path.unlink(missing_ok=True)
