"""A readers-writer lock for each host, across workers and sessions of one user.

Every test with guests holds it shared. A test with the marker exclusive_host holds it exclusively.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.errors import HostError


class HostLock:
    """A lock file named after the host, in a directory of this user."""

    def __init__(self, host: str) -> None:
        self.path = _directory() / (re.sub(r"[^A-Za-z0-9.-]+", "_", host) + ".lock")
        self._fd = -1

    def acquire(self, *, exclusive: bool, progress: Callable[[str], None]) -> None:
        """Wait for the lock. Ctrl-C interrupts the wait."""
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            try:
                fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                progress("waiting for tests of other sessions or workers on this host")
                fcntl.flock(self._fd, kind)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _directory() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    folder = Path(base) / f"pytest-hypervisor-{os.geteuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid != os.geteuid():
        raise HostError(
            f"{folder} belongs to another user, so its locks are not safe",
            hint="remove it, or set XDG_RUNTIME_DIR to a directory that you own",
            stage="host",
        )
    return folder
