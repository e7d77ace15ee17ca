"""A cgroup (version 2) for each guest, where the host lets us make one: its cost is countable."""

from __future__ import annotations

import contextlib
import os
import time

_PARENT = "pytest-hypervisor"
_TRIES, _PAUSE = 100, 0.01  # seconds between looks


def _mount() -> str | None:
    with open("/proc/self/mounts", encoding="ascii", errors="replace") as mounts:
        for line in mounts:
            _, where, kind = line.split(" ")[:3]
            if kind == "cgroup2":
                return where
    return None


class Cgroups:
    """The cgroups of one supervisor: <mount>/pytest-hypervisor/<pid>-<start time>/<guest>.

    The name says whose they are, so that a later supervisor removes what a killed one left.
    """

    def __init__(self) -> None:
        self.root: str | None = None
        mount = _mount()
        if mount is None:
            return
        parent = f"{mount}/{_PARENT}"
        try:
            os.makedirs(parent, exist_ok=True)
            _sweep(parent)
            self.root = f"{parent}/{os.getpid()}-{_start_time(os.getpid())}"
            os.mkdir(self.root)
        except OSError:
            self.root = None

    def enter(self, guest: str) -> str | None:
        """Move the calling process into a cgroup of its own. None where there is none."""
        if self.root is None:
            return None
        path = f"{self.root}/{guest}"
        try:
            os.mkdir(path)
            with open(f"{path}/cgroup.procs", "w", encoding="ascii") as procs:
                procs.write("0")
        except OSError:
            return None
        return path

    def remove(self, guest: str) -> None:
        if self.root is not None:
            _remove(f"{self.root}/{guest}")

    def close(self) -> None:
        if self.root is not None:
            _remove_tree(self.root)
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(self.root))


def _remove(path: str) -> None:
    """Kill what is left in it (cgroup.kill, Linux 5.14) and wait for it to be empty."""
    if not os.path.isdir(path):
        return
    with contextlib.suppress(OSError):
        kill = os.open(f"{path}/cgroup.kill", os.O_WRONLY)  # made by the kernel alone
        try:
            os.write(kill, b"1")
        finally:
            os.close(kill)
    for _ in range(_TRIES):
        try:
            os.rmdir(path)
        except OSError:
            time.sleep(_PAUSE)
        else:
            return


def _start_time(pid: int) -> str:
    """Field 22 of /proc/pid/stat: with the pid it names a process for ever."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        return stat.read().rpartition(")")[2].split()[19]


def _sweep(parent: str) -> None:
    """Remove the cgroups of supervisors that are no more."""
    for name in os.listdir(parent):
        pid, _, started = name.partition("-")
        if not os.path.isdir(f"{parent}/{name}") or not pid.isdigit():
            continue
        try:
            alive = _start_time(int(pid)) == started
        except OSError:
            alive = False
        if not alive:
            _remove_tree(f"{parent}/{name}")


def _remove_tree(path: str) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            _remove(f"{path}/{name}")
        os.rmdir(path)
