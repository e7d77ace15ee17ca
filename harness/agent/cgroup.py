"""A cgroup (version 2) for each guest, where the host lets us make one: its cost is countable, and
what it takes of CPUs and memory can be limited (Documentation/admin-guide/cgroup-v2.rst)."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from harness.kvm.errors import ConfigError

from .process import is_process, process_id

_CONTROLLERS = ("cpu", "cpuset", "memory")
_PERIOD = 100_000  # us, cpu.max's own default
_COUNTERS = {  # file, line ("" for a file of one number), and the name in a machine's statistics
    ("cpu.stat", "usage_usec"): "cgroup_cpu_usec",
    ("memory.current", ""): "cgroup_memory",
    ("memory.peak", ""): "cgroup_memory_peak",
    ("memory.events", "oom_kill"): "cgroup_oom_kills",
}
_PARENT = "pytest-hypervisor"
_TRIES, _PAUSE = 100, 0.01  # seconds between looks


def _mount() -> str | None:
    with open("/proc/self/mounts", encoding="ascii", errors="replace") as mounts:
        for line in mounts:
            _, where, kind = line.split(" ")[:3]
            if kind == "cgroup2":
                return where
    return None


class Cgroup:
    """A guest's own, from inside: what counts stays readable when no file can be opened any more.

    path: its directory; "" where there is none.
    """

    def __init__(self, path: str = "") -> None:
        self.path = path
        self._files = {}
        for file, _ in _COUNTERS:
            with contextlib.suppress(OSError):
                self._files[file] = os.open(f"{path}/{file}", os.O_RDONLY | os.O_CLOEXEC)

    def counters(self) -> dict[str, int]:
        """CPU time in us, memory in bytes, of all its processes and of the kernel for them."""
        found = {}
        for (file, line), name in _COUNTERS.items():
            if file in self._files:
                found[name] = _number(os.pread(self._files[file], 4096, 0), line)
        return found

    def limit(self, limits: dict[str, Any]) -> None:
        """limits: "cpu" (CPUs' worth of time), "cpus" (their numbers), "memory" (MiB, no swap).
        Raises ConfigError when one cannot be had."""
        unknown = set(limits) - {"cpu", "cpus", "memory"}
        if unknown:
            raise ConfigError(f"unknown limits {sorted(unknown)}", "give cpu, cpus or memory")
        try:
            if limits.get("cpu"):
                self._write("cpu.max", f"{max(1000, int(limits['cpu'] * _PERIOD))} {_PERIOD}")
            if limits.get("cpus"):
                self._write("cpuset.cpus", ",".join(str(int(cpu)) for cpu in limits["cpus"]))
            if limits.get("memory"):
                self._write("memory.max", str(int(limits["memory"]) << 20))
                with contextlib.suppress(ConfigError):  # a kernel without swap has no such file
                    self._write("memory.swap.max", "0")
                # all of a guest or nothing: half of its processes are of no use
                self._write("memory.oom.group", "1")
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"limits {limits!r:.80}: {error}", "give numbers") from error

    def _write(self, file: str, value: str) -> None:
        """To a file of the kernel's: never make one."""
        controller = file.partition(".")[0]
        try:
            fd = os.open(f"{self.path}/{file}", os.O_WRONLY)
        except OSError as error:
            raise ConfigError(
                f"no limit by {file}: {self.path or 'the guest'} has no cgroup controller "
                f"{controller!r}",
                f"run as root on a host whose cgroup version 2 has {controller}, or without limits",
            ) from error
        try:
            os.write(fd, value.encode())
        except OSError as error:
            raise ConfigError(
                f"{file} cannot be {value!r}: {error.strerror}", "give what the host has"
            ) from error
        finally:
            os.close(fd)


def _number(text: bytes, line: str) -> int:
    """The number of a line "name number", or of a file that is one number."""
    fields = text.split()
    return int(fields[fields.index(line.encode()) + 1] if line else fields[0])


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
            self.root = f"{parent}/{process_id(os.getpid())}"
            os.mkdir(self.root)
        except OSError:
            self.root = None
        else:
            for path in (mount, parent, self.root):
                _enable(path)

    def enter(self, guest: str, limits: dict[str, Any]) -> Cgroup:
        """Move the calling process into a cgroup of its own, if one can be had. limits: see
        Cgroup.limit. Raises ConfigError for limits that cannot be had."""
        cgroup = Cgroup(self._join(guest))
        cgroup.limit(limits)
        return cgroup

    def path(self, guest: str) -> str:
        """Its directory, made or not; "" where there is none for anybody."""
        return f"{self.root}/{guest}" if self.root else ""

    def _join(self, guest: str) -> str:
        if self.root is None:
            return ""
        path = self.path(guest)
        try:
            os.mkdir(path)
            with open(f"{path}/cgroup.procs", "w", encoding="ascii") as procs:
                procs.write("0")
        except OSError:
            with contextlib.suppress(OSError):  # else it would tell of a guest that takes nothing
                os.rmdir(path)
            return ""
        return path

    def killed_for_memory(self, guest: str) -> bool:
        """Whether the kernel ended the guest because it reached its limit."""
        try:
            with open(f"{self.root}/{guest}/memory.events", "rb") as events:
                return _number(events.read(), "oom_kill") > 0
        except (OSError, ValueError):
            return False

    def remove(self, guest: str) -> None:
        if self.root is not None:
            _remove(f"{self.root}/{guest}")

    def close(self) -> None:
        if self.root is not None:
            _remove_tree(self.root)
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(self.root))


def _enable(path: str) -> None:
    """Hand the controllers on to the cgroups below, as far as they are there and ours to give."""
    for controller in _CONTROLLERS:
        with contextlib.suppress(OSError):
            fd = os.open(f"{path}/cgroup.subtree_control", os.O_WRONLY)
            try:
                os.write(fd, b"+" + controller.encode())
            finally:
                os.close(fd)


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


def _sweep(parent: str) -> None:
    """Remove the cgroups of supervisors that are no more."""
    for name in os.listdir(parent):
        if os.path.isdir(f"{parent}/{name}") and not is_process(name):
            _remove_tree(f"{parent}/{name}")


def _remove_tree(path: str) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            _remove(f"{path}/{name}")
        os.rmdir(path)
