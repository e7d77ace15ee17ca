"""Channels of an SSH transport: draining both outputs, feeding input, long-lived processes."""

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

from harness.errors import HostError

CHUNK = 1 << 18  # bytes
# may be no program where the shell has them built in
BUILTINS = frozenset(("command", "kill", "test", "type", "ulimit", "umask"))
STDERR_TAIL = 4096  # bytes, as Process.stderr_tail() promises


class Deadline:
    """A point in monotonic time, so that several steps share one time-out."""

    def __init__(self, timeout: float) -> None:
        self._end = time.monotonic() + timeout

    def remaining(self) -> float:
        """Seconds left, never below 0.001 (0 would mean "do not wait" to sockets)."""
        return max(self._end - time.monotonic(), 0.001)

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._end


class ChannelProcess:
    """A Process whose standard streams are one SSH channel."""

    def __init__(
        self, channel: paramiko.Channel, who: str, kill_pid: Callable[[int], None]
    ) -> None:
        """channel: runs what with_pid() made. kill_pid: kills a process of the server."""
        self._channel = channel
        self._who = who
        self._kill_pid = kill_pid
        self._pid = 0
        self._has_pid = threading.Event()
        self._lines = bytearray()
        self._tail = bytearray()
        # stderr shares the channel's window: left undrained it would stop stdout as well
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
            raise HostError(
                f"a process on {self._who} is gone: {self.stderr_tail() or error}", stage="run"
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
        """Exit status, or -1: ended by a signal, or the connection was lost."""
        if not self._channel.status_event.wait(timeout):
            raise TimeoutError(f"a process on {self._who} did not end in {timeout:g} s")
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
            self._drainer.join(1.0)  # its end is near, unless a stray process holds the pipe
        return bytes(self._tail).decode(errors="replace")


def text(argv: Sequence[str] | str) -> str:
    """What the remote shell is given."""
    return argv if isinstance(argv, str) else shlex.join(argv)


def with_pid(argv: Sequence[str] | str) -> str:
    """The command for a POSIX shell, telling the shell's process id as stderr's first line.

    A vector replaces the shell, so that the id is its own.
    """
    if isinstance(argv, str):
        return f"echo $$ >&2; {argv}"
    replace = "" if argv[0] in BUILTINS else "exec "
    return f"echo $$ >&2; {replace}{shlex.join(argv)}"


def take_pid(err: bytearray) -> int:
    """Take the line of with_pid() off; 0 when it has not come (whole) yet."""
    line, newline, rest = err.partition(b"\n")
    if not newline or not line.isdigit():
        return 0
    err[:] = rest
    return int(line)


def tail_of(printed: bytes | bytearray) -> str:
    """Ends an error's cause with what a command printed last."""
    last = bytes(printed[-2000:]).decode(errors="replace").strip()
    return f"; it printed: {last}" if last else ""


def chunks(path: Path) -> Iterator[bytes]:
    """A file piece by piece."""
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            yield data


def feed(channel: paramiko.Channel, source: Iterator[bytes]) -> None:
    """Send all of `source`, then end of file; stops when the command no longer reads."""
    with contextlib.suppress(OSError, EOFError):
        for data in source:
            channel.sendall(data)
        channel.shutdown_write()


def drain(channel: paramiko.Channel, out: bytearray, err: bytearray, deadline: Deadline) -> bool:
    """Read both outputs as they come until their end; False when the deadline came first."""
    # not channel.fileno(): its pipe may be written to after close(), when the number is reused
    news = threading.Event()
    for buffer, event in zip(
        (channel.in_buffer, channel.in_stderr_buffer), make_or_pipe(cast(Any, news)), strict=True
    ):
        buffer.set_event(cast(Any, event))
    while True:
        # the order matters: the end is read before the buffers, so nothing can come in between
        ended = channel.eof_received or channel.closed
        while channel.recv_ready():
            out += channel.recv(CHUNK)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(CHUNK)
        if ended:
            return True
        if deadline.over:
            return False
        # at most 0.5 s: clearing one half may swallow what the other half tells at that moment
        news.wait(min(deadline.remaining(), 0.5))
