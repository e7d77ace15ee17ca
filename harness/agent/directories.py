"""Temporary directories of guests, removed when the guest has ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import threading
from functools import cached_property

from .process import is_process, process_id


class Directories:
    """The directories of one supervisor: TMPDIR/pytest-hypervisor-UID/PROCESS_ID/GUEST.

    A directory is created when a guest needs it. A later supervisor removes the directories of a
    killed one.
    """

    def __init__(self) -> None:
        self._supervisor = process_id(os.getpid())
        self._removals: list[threading.Thread] = []

    @cached_property
    def _parent(self) -> str:
        """Raises FileNotFoundError where no folder for temporary files is writable."""
        return f"{tempfile.gettempdir()}/pytest-hypervisor-{os.geteuid()}"

    @property
    def _root(self) -> str:
        return f"{self._parent}/{self._supervisor}"

    def path(self, guest: str) -> str:
        """The path of a guest's directory, which need not exist. Raises OSError."""
        return f"{self._root}/{guest}"

    def make(self, guest: str) -> str:
        """Create a guest's directory and return its path. Raises OSError."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._parent, 0o700)
        _check_private(self._parent)
        self._remove_stale()
        os.makedirs(self._root, 0o700, exist_ok=True)
        os.mkdir(self.path(guest), 0o700)
        return self.path(guest)

    def _remove_stale(self) -> None:
        """Remove the directories of ended supervisors. The parent must be private."""
        for name in os.listdir(self._parent):
            if not is_process(name):
                shutil.rmtree(f"{self._parent}/{name}", ignore_errors=True)

    def remove(self, guest: str) -> None:
        """Remove a guest's directory if it exists. Its path is free at once; a thread deletes the
        contents, so that a large directory does not delay the supervisor."""
        with contextlib.suppress(OSError):
            _check_private(self._parent)
            path = self.path(guest)
            if not os.path.isdir(path):
                return
            discarded = tempfile.mkdtemp(prefix=".", dir=self._root)
            os.rename(path, f"{discarded}/contents")
            thread = threading.Thread(
                target=shutil.rmtree, args=(discarded, True), name="remove", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # the host has no further thread for this user
                shutil.rmtree(discarded, ignore_errors=True)
                return
            self._removals = [one for one in self._removals if one.is_alive()] + [thread]

    def close(self) -> None:
        """Remove the directories of all guests."""
        for thread in self._removals:
            thread.join()
        with contextlib.suppress(OSError):  # another supervisor has directories in the parent
            _check_private(self._parent)
            shutil.rmtree(self._root, ignore_errors=True)
            os.rmdir(self._parent)


def _check_private(path: str) -> None:
    """Raises OSError unless `path` is a directory that only this user can write to.

    The path is predictable, and other users can write to its parent: a symbolic link or a
    directory of theirs would name other files to remove.
    """
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(20, "it is no directory", path)
    if status.st_uid != os.geteuid():
        raise PermissionError(1, "the folder belongs to another user", path)
    if status.st_mode & 0o022:
        raise PermissionError(1, "other users can write to the folder", path)
