"""Commands in a guest over SSH, with the guest's own end told apart from a lost connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from harness.errors import CommandError, SSHError, hide_frames
from harness.guest.base import BaseGuest
from harness.ssh.errors import SSHLost, SSHRefused
from harness.ssh.process import Completed, Process
from harness.ssh.session import SSHSession

if TYPE_CHECKING:
    from images.image import GuestImage

__tracebackhide__ = hide_frames
T = TypeVar("T")

RECONNECT = 15.0  # seconds for the one reconnect
GRACE = 0.7  # seconds: a dying guest may lose its connection before its end is told


class GuestSSH:
    """What `guest.ssh` is: one connection, made when the guest became ready.

    When the guest ends, whatever runs here fails with GuestEnded within a second. A connection
    found lost while the guest lives is made anew once. A command that was running when it broke
    is not started again (nobody knows how far it came): it fails with SSHLost.
    """

    def __init__(self, guest: BaseGuest, image: GuestImage) -> None:
        """image: the image that the guest boots; it holds the keys of both sides."""
        self._guest = guest
        self._image = image
        self._session: SSHSession | None = None
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        session = self._session
        return session is not None and session.alive

    def connect(self, timeout: float) -> None:
        """Connect and log in within `timeout` seconds. Raises SSHError."""
        guest, image = self._guest, self._image
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
            # It ended meanwhile, and disconnect() may have run before there was anything to cut.
            self.disconnect()

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
        return self._attempt(
            repr(argv), lambda on: on.run(argv, timeout=timeout, check=check, input=input)
        )

    def popen(self, argv: Sequence[str] | str) -> Process:
        """Start a long-lived process in the guest; see harness.ssh.process.Process."""
        return self._attempt(repr(argv), lambda on: on.popen(argv))

    def put(self, data: bytes | Path, remote: str, *, mode: int = 0o600) -> None:
        """Write a file in the guest, as a whole or not at all. mode: its permission bits."""
        self._attempt(f"put {remote}", lambda on: on.put(data, remote, mode))

    def get(self, remote: str) -> bytes:
        """A file of the guest. Raises CommandError when it cannot be read."""
        return self._attempt(f"get {remote}", lambda on: on.get(remote))

    def disconnect(self) -> None:
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
                hint="wait for the guest with wait_ready() first",
                stage=self._guest.timeline.next_stage or "ready",
                guest=self._guest.name,
            )
        if not session.alive:
            self._reconnect()
            session = self._session or session
        return session

    def _reconnect(self) -> None:
        self.disconnect()
        self.connect(RECONNECT)

    def _attempt(self, what: str, action: Callable[[SSHSession], T]) -> T:
        """Do it; a connection found lost before it started is made anew, once."""
        try:
            return action(self._ready())
        except (SSHError, CommandError) as error:
            # Status -1 is what SSH says when the process was cut off rather than ended.
            cut = not isinstance(error, CommandError) or error.status < 0
            if cut and self._guest.ended.wait(GRACE):
                raise self._guest.ended_error(f"it ended during {what}") from None
            if isinstance(error, CommandError) or self.alive or isinstance(error, SSHRefused):
                raise
            mended = self._mended()
            if mended or not isinstance(error, SSHLost) or error.started:
                self._fail(what, error, mended)
        try:
            return action(self._ready())
        except SSHLost as error:
            self._fail(what, error, "; it had been connected again just before")

    def _fail(self, what: str, error: SSHError, after: str) -> NoReturn:
        if self._guest.ended.is_set():
            raise self._guest.ended_error(f"it ended during {what}") from None
        error.cause += after or "; connected again, but it was not started a second time"
        error.console = tuple(self._guest.console.tail())
        raise error

    def _mended(self) -> str:
        """Connect again; what kept it from that."""
        try:
            self._reconnect()
        except SSHError as again:
            return f"; connecting again failed: {again.cause}"
        return ""
