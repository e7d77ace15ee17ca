"""Commands in a guest over SSH, with the guest's own end told apart from a lost connection."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import CommandError, SSHError
from harness.guest.credentials import SSHLost
from harness.guest.ssh import SSHSession
from harness.hosts.base import Completed, Process

if TYPE_CHECKING:
    from harness.guest.guest import Guest

RECONNECT = 15.0  # seconds for the one reconnect
GRACE = 0.7  # seconds: a dying guest may lose its connection before its end is told


class GuestSSH:
    """What `guest.ssh` is: one connection, made when the guest became ready.

    When the guest ends, whatever runs here fails with GuestEnded within a second. A connection
    found lost while the guest lives is made anew once. A command that was running when it broke
    is not started again (nobody knows how far it came): it fails with SSHLost.
    """

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._session: SSHSession | None = None
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        session = self._session
        return session is not None and session.alive

    def connect(self, timeout: float) -> None:
        """Connect and log in within `timeout` seconds. Raises SSHError."""
        guest, image = self._guest, self._guest.spec.image
        session = SSHSession.connect(
            lambda seconds: guest.machine.connect(22, seconds),
            user="root",
            client_key=image.client_key,
            host_key=image.host_key,
            timeout=timeout,
            who=f"guest {guest.name}",
            guest=guest.name,
        )
        with self._lock:
            self._session = session
        if guest.ended.is_set():
            # It ended meanwhile, and cut() may have run before there was anything to cut.
            self.cut()

    def run(
        self,
        argv: Sequence[str] | str,
        *,
        timeout: float = 30.0,
        check: bool = True,
        input: bytes = b"",
    ) -> Completed:
        """Run a command in the guest to its end.

        argv: a list is quoted for the guest's shell; a string is given to it as it is.
        timeout: seconds. Raises CommandError when `check` and the status is not 0, GuestEnded
        when the guest ends meanwhile, SSHError when SSH is lost or late while the guest lives.
        """
        with self._translated(repr(argv)):
            return self._ready().run(argv, timeout=timeout, check=check, input=input)

    def popen(self, argv: Sequence[str] | str) -> Process:
        """Start a long-lived process in the guest; see harness.hosts.base.Process."""
        with self._translated(repr(argv)):
            return self._ready().popen(argv)

    def put(self, data: bytes | Path, remote: str, *, mode: int = 0o600) -> None:
        """Write a file in the guest, as a whole or not at all. mode: its permission bits."""
        with self._translated(f"put {remote}"):
            self._ready().put(data, remote, mode)

    def get(self, remote: str) -> bytes:
        """A file of the guest. Raises CommandError when it cannot be read."""
        with self._translated(f"get {remote}"):
            return self._ready().get(remote)

    def cut(self) -> None:
        """Close the connection; commands that run fail at once. Idempotent, safe from threads."""
        session = self._session
        if session is not None:
            session.close()

    def _ready(self) -> SSHSession:
        self._guest.check_alive()
        session = self._session
        if session is None:
            raise SSHError(
                "there is no SSH connection yet",
                mend="wait for the guest with wait_ready() first",
                stage=self._guest.timeline.missing or "ready",
                guest=self._guest.name,
            )
        if not session.alive:
            self._reconnect()
            session = self._session or session
        return session

    def _reconnect(self) -> None:
        self.cut()
        self.connect(RECONNECT)

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Say what an SSH failure really was."""
        try:
            yield
        except (SSHError, CommandError) as error:
            # Status -1 is what SSH says when the process was cut off rather than ended.
            if isinstance(error, CommandError) and error.status >= 0:
                raise
            if self._guest.ended.wait(GRACE):
                raise self._guest.ended_error(f"it ended during {what}") from error
            if isinstance(error, SSHLost):
                error.cause += self._mended()
                if self._guest.ended.is_set():
                    raise self._guest.ended_error(f"it ended during {what}") from error
                error.console = tuple(self._guest.console.tail())
            raise

    def _mended(self) -> str:
        try:
            self._reconnect()
        except SSHError as again:
            return f"; connecting again failed: {again.cause}"
        return "; connected again, but what was running was not started a second time"
