"""Processes of ours: none outlives the one that it is for."""

from __future__ import annotations

import os
import signal
from typing import Callable

from harness.kvm import libc

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def die_with(parent: int) -> None:
    """This process ends with the thread that forked it, of process `parent`."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we could ask
        os._exit(1)


def bound_to_us() -> Callable[[], None]:
    """For Popen's preexec_fn: the child dies with this thread, gains no rights by what it starts,
    and leads a process group of its own, to be ended as a whole."""
    parent = os.getpid()

    def prepare() -> None:
        die_with(parent)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)
        os.setpgid(0, 0)

    return prepare


def stat(pid: int) -> list[str]:
    """What /proc/pid/stat says after the program's name: proc(5)'s fields from the third on."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def start_time(pid: int) -> str:
    """Field 22 of /proc/pid/stat, clock ticks since boot: with the pid it names a process for as
    long as the machine is up."""
    return stat(pid)[19]


def process_id(pid: int) -> str:
    """Names a process for as long as the machine is up: "pid-start time". Raises OSError."""
    return f"{pid}-{start_time(pid)}"


def is_process(name: str) -> bool:
    """Whether the process of that process_id still runs; True for a text that is none."""
    pid, _, started = name.partition("-")
    if not pid.isdigit():
        return True
    try:
        return start_time(int(pid)) == started
    except OSError:
        return False
