"""A temporary directory for each guest that needs one, removed when the guest has ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile

from .process import is_process, process_id


class Directories:
    """The directories of one supervisor: <temporary folder>/pytest-hypervisor-<uid>/<its process
    id>/<guest>. A later supervisor removes those of a supervisor that was killed.

    Nothing is made before a guest needs it.
    """

    def __init__(self) -> None:
        self._parent = f"{tempfile.gettempdir()}/pytest-hypervisor-{os.geteuid()}"
        self._root = f"{self._parent}/{process_id(os.getpid())}"
        self._sweep()

    def _sweep(self) -> None:
        with contextlib.suppress(OSError):
            for name in os.listdir(self._parent):
                if not is_process(name):
                    shutil.rmtree(f"{self._parent}/{name}", ignore_errors=True)

    def path(self, guest: str) -> str:
        """The guest's directory, whether it exists or not."""
        return f"{self._root}/{guest}"

    def make(self, guest: str) -> str:
        """Make the guest's directory. Raises OSError."""
        os.makedirs(self._parent, 0o700, exist_ok=True)
        if os.lstat(self._parent).st_uid != os.geteuid():
            raise PermissionError(1, "the folder belongs to another user", self._parent)
        os.makedirs(self._root, 0o700, exist_ok=True)
        os.mkdir(self.path(guest), 0o700)
        return self.path(guest)

    def remove(self, guest: str) -> None:
        """Remove the guest's directory, if there is one."""
        if os.path.isdir(self._root):
            shutil.rmtree(self.path(guest), ignore_errors=True)

    def close(self) -> None:
        if os.path.isdir(self._root):
            shutil.rmtree(self._root, ignore_errors=True)
            with contextlib.suppress(OSError):  # another supervisor has directories there
                os.rmdir(self._parent)
