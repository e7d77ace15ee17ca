"""Temporary directories named after their process. Later sessions remove those of dead processes.

The name is harness-<pid>-<start time>-<random>. Pid and start time together identify a process
until the machine reboots (proc(5), field 22 of stat).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_NAME = re.compile(r"harness-(\d+)-(\d+)-\w+")


def make(parent: Path | None = None) -> Path:
    """Create a directory with mode 0700 in `parent` (default: the temporary directory).

    Directories of dead processes in `parent` are removed first.
    """
    parent = parent or Path(tempfile.gettempdir())
    sweep(parent)
    pid = os.getpid()
    return Path(tempfile.mkdtemp(prefix=f"harness-{pid}-{_start_time(pid)}-", dir=parent))


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """Create a directory that is removed after the with block."""
    path = make()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def sweep(parent: Path) -> list[Path]:
    """Remove the directories of this user's dead processes. Returns the removed paths."""
    removed = []
    for path in parent.glob("harness-*"):
        match = _NAME.fullmatch(path.name)
        with contextlib.suppress(OSError):  # another session removed it
            if match is None or path.lstat().st_uid != os.getuid():
                continue
            if _start_time(int(match[1])) != match[2]:
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
    return removed


def _start_time(pid: int) -> str:
    """A process's start time in clock ticks since boot, "" without such a process.

    harness/agent/process.py reads the same field. It is shipped to hosts and shares no code.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
