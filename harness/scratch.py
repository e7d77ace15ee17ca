"""Temporary directories that say whose they are, so that a later session removes a killed one's.

The name is the ledger: harness-<pid>-<start time>-<random>. Pid and start time together name a
process for as long as the machine is up (proc(5), field 22 of stat).
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
    """A new directory, mode 0700, in `parent` (default: the temporary directory). Before that,
    those of processes that are no more are removed there."""
    parent = parent or Path(tempfile.gettempdir())
    sweep(parent)
    pid = os.getpid()
    return Path(tempfile.mkdtemp(prefix=f"harness-{pid}-{_start_time(pid)}-", dir=parent))


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A new directory for as long as a with block lasts."""
    made = make()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def sweep(parent: Path) -> list[Path]:
    """Remove what dead sessions of this user left; what was removed."""
    removed = []
    for path in parent.glob("harness-*"):
        named = _NAME.fullmatch(path.name)
        with contextlib.suppress(OSError):  # gone meanwhile
            if named is None or path.lstat().st_uid != os.getuid():
                continue
            if _start_time(int(named[1])) != named[2]:
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
