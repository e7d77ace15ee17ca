"""Commands, processes and byte streams on another machine, as hosts and guests offer them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Completed:
    """A command that has ended."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str


class Process(Protocol):
    """A long-lived process with pipes for its standard streams."""

    def write(self, data: bytes) -> None:
        """Write to its standard input. Raises HostError when the process has ended."""

    def readline(self) -> bytes:
        """Read one line of its standard output; b"" means end of file.

        The call blocks. Only one thread may call it.
        """

    def close_stdin(self) -> None:
        """Close its standard input. Idempotent."""

    def wait(self, timeout: float) -> int:
        """Wait for its exit status. Raises TimeoutError after `timeout` seconds."""

    def kill(self) -> None:
        """End it at once, by SIGKILL or by closing its channel. Idempotent."""

    def stderr_tail(self) -> str:
        """The last 4 KiB of its standard error."""


class Stream(Protocol):
    """A connected byte stream with the socket methods that paramiko.Transport calls."""

    def send(self, data: bytes, /) -> int: ...
    def recv(self, size: int, /) -> bytes: ...
    def settimeout(self, timeout: float | None, /) -> None: ...
    def close(self) -> None: ...
