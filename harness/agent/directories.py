"""Temporary directories of guests, removed when the guest has ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile

from .process import is_process, process_id


class Directories:
    """The directories of one supervisor: TMPDIR/pytest-hypervisor-UID/PROCESS_ID/GUEST.

    A directory is created when a guest needs it. A later supervisor removes the directories of a
    killed one.
    """

    def __init__(self) -> None:
        self._parent = f"{tempfile.gettempdir()}/pytest-hypervisor-{os.geteuid()}"
        self._root = f"{self._parent}/{process_id(os.getpid())}"
        self._remove_stale()

    def _remove_stale(self) -> None:
        with contextlib.suppress(OSError):
            for name in os.listdir(self._parent):
                if not is_process(name):
                    shutil.rmtree(f"{self._parent}/{name}", ignore_errors=True)

    def path(self, guest: str) -> str:
        """The path of a guest's directory, which need not exist."""
        return f"{self._root}/{guest}"

    def make(self, guest: str) -> str:
        """Create a guest's directory and return its path. Raises OSError."""
        os.makedirs(self._parent, 0o700, exist_ok=True)
        if os.lstat(self._parent).st_uid != os.geteuid():
            raise PermissionError(1, "the folder belongs to another user", self._parent)
        os.makedirs(self._root, 0o700, exist_ok=True)
        os.mkdir(self.path(guest), 0o700)
        return self.path(guest)

    def remove(self, guest: str) -> None:
        """Remove a guest's directory if it exists."""
        if os.path.isdir(self._root):
            shutil.rmtree(self.path(guest), ignore_errors=True)

    def close(self) -> None:
        if os.path.isdir(self._root):
            shutil.rmtree(self._root, ignore_errors=True)
            with contextlib.suppress(OSError):  # another supervisor has directories there
                os.rmdir(self._parent)
