"""A file lock around an image build, with a note that names its holder."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def build_lock(path: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file `path`. If another process holds it, report that and wait.

    The kernel frees the lock when its holder dies, so no stale lock can remain.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    note = path.with_suffix(".holder")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"{path.stem} image: waiting for {_holder(note)}, which builds it")
        lock.acquire()
    try:
        note.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _holder(note: Path) -> str:
    try:
        return note.read_text().strip() or "another process"
    except OSError:
        return "another process"
