"""Channels of an SSH transport: command lines, input, both outputs, long-lived processes."""

from __future__ import annotations

import contextlib
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import paramiko
from paramiko.pipe import make_or_pipe

from harness.errors import ProcessEnded

CHUNK = 1 << 18  # bytes
# shell built-ins, which some systems do not have as programs
BUILTINS = frozenset(("command", "kill", "test", "type", "ulimit", "umask"))
STDERR_TAIL = 4096  # bytes; see Process.stderr_tail()


class Deadline:
    """A point in monotonic time that several steps share as their timeout."""

    def __init__(self, timeout: float) -> None:
        self._end = time.monotonic() + timeout

    def remaining(self) -> float:
        """Seconds left, at least 0.001: sockets take a timeout of 0 for non-blocking mode."""
        return max(self._end - time.monotonic(), 0.001)

    @property
    def expired(self) -> bool:
        """True once the point has passed."""
        return time.monotonic() >= self._end


class ChannelProcess:
    """A Process whose standard streams are one SSH channel."""

    def __init__(
        self, channel: paramiko.Channel, server_name: str, kill_pid: Callable[[int], None]
    ) -> None:
        """channel: runs a command line of with_pid(). kill_pid: kills a process of the server."""
        self._channel = channel
        self._server_name = server_name
        self._kill_pid = kill_pid
        self._pid = 0
        self._has_pid = threading.Event()
        self._lines = bytearray()
        self._tail = bytearray()
        # stderr shares the channel's window: without a reader, stdout would stop as well
        self._drainer = threading.Thread(target=self._drain_stderr, daemon=True)
        self._drainer.start()

    def _drain_stderr(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while data := self._channel.recv_stderr(CHUNK):
                self._tail += data
                if not self._pid:
                    self._pid = take_pid(self._tail)
                    self._has_pid.set()
                del self._tail[:-STDERR_TAIL]
        self._has_pid.set()

    def write(self, data: bytes) -> None:
        """See Process."""
        try:
            self._channel.sendall(data)
        except (OSError, EOFError) as error:
            raise ProcessEnded(
                f"a process on {self._server_name} is gone: {self.stderr_tail() or error}",
                stage="run",
            ) from error

    def readline(self) -> bytes:
        """See Process."""
        start = 0
        while (end := self._lines.find(b"\n", start)) < 0:
            start = len(self._lines)
            try:
                data = self._channel.recv(CHUNK)
            except (OSError, EOFError):
                data = b""
            if not data:
                end = start - 1
                break
            self._lines += data
        line = bytes(self._lines[: end + 1])
        del self._lines[: end + 1]
        return line

    def close_stdin(self) -> None:
        """See Process."""
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()

    def wait(self, timeout: float) -> int:
        """Wait for its exit status; -1 means a signal or a lost connection. See Process."""
        if not self._channel.status_event.wait(timeout):
            raise TimeoutError(f"a process on {self._server_name} did not end in {timeout:g} s")
        return self._channel.exit_status

    def kill(self) -> None:
        """See Process."""
        if not self._channel.closed and not self._channel.exit_status_ready():
            self._has_pid.wait(5.0)
            self._kill_pid(self._pid)
        self._channel.close()

    def stderr_tail(self) -> str:
        """See Process."""
        if self._channel.closed or self._channel.exit_status_ready():
            # the thread ends soon, unless another process still holds the pipe
            self._drainer.join(1.0)
        return bytes(self._tail).decode(errors="replace")


def quote_command(argv: Sequence[str] | str) -> str:
    """A command line for the remote shell; a list is quoted, a string stays as it is."""
    return argv if isinstance(argv, str) else shlex.join(argv)


def with_pid(argv: Sequence[str] | str) -> str:
    """A command line whose first line on stderr is the process id of the remote command.

    The id is the shell's. A list replaces the shell by exec and keeps the id.
    """
    if isinstance(argv, str):
        return f"echo $$ >&2; {argv}"
    replace = "" if argv[0] in BUILTINS else "exec "
    return f"echo $$ >&2; {replace}{shlex.join(argv)}"


def take_pid(err: bytearray) -> int:
    """Remove the first line that with_pid() adds and return its number; 0 if it is incomplete."""
    line, newline, rest = err.partition(b"\n")
    if not newline or not line.isdigit():
        return 0
    err[:] = rest
    return int(line)


def read_chunks(path: Path) -> Iterator[bytes]:
    """Read a file in pieces of CHUNK bytes."""
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            yield data


def feed(channel: paramiko.Channel, source: Iterator[bytes]) -> None:
    """Send all of `source`, then end of file. Stops early when the command no longer reads."""
    with contextlib.suppress(OSError, EOFError):
        for data in source:
            channel.sendall(data)
        channel.shutdown_write()


def drain(
    channel: paramiko.Channel,
    out: bytearray,
    err: bytearray,
    deadline: Deadline,
    on_stderr: Callable[[bytes], object] | None = None,
) -> bool:
    """Read both outputs until they end. Returns False when the deadline passes first.

    on_stderr: see SSHSession.run_bytes().
    """
    # Not channel.fileno(): paramiko may write to its pipe after close(), when another file has the
    # same number.
    data_event = threading.Event()
    halves = make_or_pipe(cast(Any, data_event))
    for buffer, half in zip((channel.in_buffer, channel.in_stderr_buffer), halves, strict=True):
        buffer.set_event(cast(Any, half))
    while True:
        # Read the end before the buffers: data that arrives between the two is then not lost.
        ended = channel.eof_received or channel.closed
        while channel.recv_ready():
            out += channel.recv(CHUNK)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(CHUNK)
            if on_stderr:
                on_stderr(bytes(err))
        if ended:
            return True
        if deadline.expired:
            return False
        # At most 0.5 s: the buffers share the event, and one may clear what the other just set.
        data_event.wait(min(deadline.remaining(), 0.5))
