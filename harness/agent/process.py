"""Child processes that end with their parent, and the identity of processes in /proc."""

from __future__ import annotations

import os
import re
import signal
from typing import Callable

from harness.kvm import libc

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_PROCESS_ID = re.compile(r"([0-9]{1,10})-([0-9]{1,20})")


def die_with_parent(parent: int) -> None:
    """Make this process end when the thread that forked it ends. parent: that thread's process."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call above
        os._exit(1)


def child_setup() -> Callable[[], None]:
    """A function for Popen's preexec_fn.

    The child ends with this thread, gains no privileges by execve(2), and leads a process group,
    so that one signal ends it with all its children.
    """
    parent = os.getpid()

    def prepare() -> None:
        die_with_parent(parent)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)
        os.setpgid(0, 0)

    return prepare


def read_stat(pid: int) -> list[str]:
    """The fields of /proc/pid/stat from the third on (proc(5)), which follow the program's name."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def start_time(pid: int) -> str:
    """Field 22 of /proc/pid/stat, clock ticks since boot. Together with the pid it identifies a
    process until the next boot."""
    return read_stat(pid)[19]


def process_id(pid: int) -> str:
    """ "PID-START_TIME", which identifies a process until the next boot. Raises OSError."""
    return f"{pid}-{start_time(pid)}"


def is_process(name: str) -> bool:
    """Whether the process with that process_id still runs; True if `name` is no process_id."""
    match = _PROCESS_ID.fullmatch(name)
    if not match:
        return True
    try:
        return start_time(int(match[1])) == match[2]
    except OSError:
        return False
