"""Commands in a guest over SSH. Errors separate the guest's end from a lost connection."""

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

RECONNECT_TIMEOUT = 15.0  # seconds
END_GRACE = 0.7  # seconds: the connection of an ending guest may break before its end is reported


class GuestSSH:
    """The type of `guest.ssh`: one SSH connection to a ready guest.

    When the guest ends, running commands fail with GuestEnded within a second. A connection that
    is lost while the guest runs is restored once. A command that had started before the loss
    fails with SSHLost. It is not repeated, since it may have done a part of its work.
    """

    def __init__(self, guest: BaseGuest, image: GuestImage) -> None:
        """image: the image that the guest boots; it holds the keys of both sides."""
        self._guest = guest
        self._image = image
        self._session: SSHSession | None = None
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        """True while the connection is open."""
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
            server_name=f"guest {guest.name}",
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

        argv: a list is quoted for the guest's shell; a string reaches the shell unchanged.
        timeout: seconds. Raises CommandError if `check` is set and the status is not 0, GuestEnded
        when the guest ends, SSHError when the connection breaks or the command is late.
        """
        return self._attempt(
            repr(argv), lambda session: session.run(argv, timeout=timeout, check=check, input=input)
        )

    def run_bytes(
        self,
        argv: Sequence[str] | str,
        *,
        timeout: float = 30.0,
        input: bytes = b"",
        on_stderr: Callable[[bytes], object] | None = None,
    ) -> tuple[int, bytes, bytes]:
        """See SSHSession.run_bytes()."""
        return self._attempt(
            repr(argv),
            lambda session: session.run_bytes(
                argv, timeout=timeout, input=input, on_stderr=on_stderr
            ),
        )

    def popen(self, argv: Sequence[str] | str) -> Process:
        """Start a long-lived process in the guest; see harness.ssh.process.Process."""
        return self._attempt(repr(argv), lambda session: session.popen(argv))

    def put(self, data: bytes | Path, remote: str, *, mode: int = 0o600) -> None:
        """Write a file in the guest atomically. mode: its permission bits."""
        self._attempt(f"put {remote}", lambda session: session.put(data, remote, mode))

    def get(self, remote: str) -> bytes:
        """Read a file of the guest. Raises CommandError when it cannot be read."""
        return self._attempt(f"get {remote}", lambda session: session.get(remote))

    def disconnect(self) -> None:
        """Close the connection. Running commands fail at once. Idempotent and thread-safe."""
        session = self._session
        if session is not None:
            session.close()

    def _connected_session(self) -> SSHSession:
        """The session, reconnected if it was lost."""
        self._guest.check_alive()
        session = self._session
        if session is None:
            raise SSHError(
                "the guest has no SSH connection yet",
                hint="call wait_ready() first",
                stage=self._guest.timeline.next_stage or "ready",
                guest=self._guest.name,
            )
        if not session.alive:
            self._reconnect()
            session = self._session or session
        return session

    def _reconnect(self) -> None:
        self.disconnect()
        self.connect(RECONNECT_TIMEOUT)

    def _attempt(self, description: str, action: Callable[[SSHSession], T]) -> T:
        """Call `action` with the session. If the connection was lost before, retry once.

        description: of the action, for errors.
        """
        try:
            return action(self._connected_session())
        except (SSHError, CommandError) as error:
            # Status -1 means that the connection broke before the process ended.
            broken = not isinstance(error, CommandError) or error.status < 0
            if broken and self._guest.ended.wait(END_GRACE):
                raise self._guest.ended_error(f"it ended during {description}") from None
            if isinstance(error, CommandError) or self.alive or isinstance(error, SSHRefused):
                raise
            failure = self._try_reconnect()
            if failure or not isinstance(error, SSHLost) or error.started:
                self._fail(description, error, failure)
        try:
            return action(self._connected_session())
        except SSHLost as error:
            self._fail(description, error, "; the connection had been restored just before")

    def _fail(self, description: str, error: SSHError, detail: str) -> NoReturn:
        if self._guest.ended.is_set():
            raise self._guest.ended_error(f"it ended during {description}") from None
        error.cause += detail or "; the connection was restored, but the command was not repeated"
        error.console = tuple(self._guest.console.tail())
        raise error

    def _try_reconnect(self) -> str:
        """Reconnect. Returns the failure as a part of a sentence, or ""."""
        try:
            self._reconnect()
        except SSHError as error:
            return f"; the reconnect failed: {error.cause}"
        return ""
