"""A cgroup (version 2) for each guest, to count its cost and to limit its CPUs and memory.

Guests have no cgroup on hosts that do not permit it. Source:
Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from harness.kvm.errors import ConfigError

from .process import is_process, process_id

_CONTROLLERS = ("cpu", "cpuset", "io", "memory")
_PERIOD = 100_000  # us, the default of cpu.max
_COUNTERS = {  # file and line ("" for a file of one number): name in a machine's statistics
    ("cpu.stat", "usage_usec"): "cgroup_cpu_usec",
    ("memory.current", ""): "cgroup_memory",
    ("memory.peak", ""): "cgroup_memory_peak",
    ("memory.events", "oom_kill"): "cgroup_oom_kills",
}
_PARENT = "pytest-hypervisor"
_REMOVE_ATTEMPTS, _REMOVE_INTERVAL = 100, 0.01  # the interval is in seconds


def _mount_point() -> str | None:
    """Where the host has mounted cgroup version 2."""
    with open("/proc/self/mounts", encoding="ascii", errors="replace") as mounts:
        for line in mounts:
            _, path, kind = line.split(" ")[:3]
            if kind == "cgroup2":
                return path
    return None


class Cgroup:
    """A guest's cgroup, used by its own process.

    The files of counters stay open, because the sandbox forbids to open any later. path: the
    cgroup's directory; "" if there is none.
    """

    def __init__(self, path: str = "") -> None:
        self.path = path
        self._files = {}
        for file, _ in _COUNTERS:
            with contextlib.suppress(OSError):
                self._files[file] = os.open(f"{path}/{file}", os.O_RDONLY | os.O_CLOEXEC)

    def counters(self) -> dict[str, int]:
        """CPU time in us and memory in bytes of its processes, with the kernel's work for them."""
        counters = {}
        for (file, line), name in _COUNTERS.items():
            if file in self._files:
                counters[name] = _parse_number(os.pread(self._files[file], 4096, 0), line)
        return counters

    def limit(self, limits: dict[str, Any]) -> None:
        """Set limits.

        limits: "cpu" (CPUs' worth of time), "cpus" (numbers of CPUs), "memory" (MiB, without swap).
        Raises ConfigError if the host cannot set one.
        """
        unknown = set(limits) - {"cpu", "cpus", "memory"}
        if unknown:
            raise ConfigError(f"unknown limits {sorted(unknown)}", "use cpu, cpus or memory")
        try:
            if limits.get("cpu"):
                self._write("cpu.max", f"{max(1000, int(limits['cpu'] * _PERIOD))} {_PERIOD}")
            if limits.get("cpus"):
                self._write("cpuset.cpus", ",".join(str(int(cpu)) for cpu in limits["cpus"]))
            if limits.get("memory"):
                self._write("memory.max", str(int(limits["memory"]) << 20))
                with contextlib.suppress(ConfigError):  # a kernel without swap has no such file
                    self._write("memory.swap.max", "0")
                # end the whole guest: some of its processes alone are useless
                self._write("memory.oom.group", "1")
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"limits {limits!r:.80}: {error}", "use numbers") from error

    def _write(self, file: str, value: str) -> None:
        """Write to a file of the kernel, which must exist."""
        controller = file.partition(".")[0]
        try:
            fd = os.open(f"{self.path}/{file}", os.O_WRONLY)
        except OSError as error:
            raise ConfigError(
                f"{file} cannot be set: {self.path or 'the guest'} has no cgroup controller "
                f"{controller!r}",
                f"run as root on a host whose cgroup v2 has {controller}, or remove the limits",
            ) from error
        try:
            os.write(fd, value.encode())
        except OSError as error:
            raise ConfigError(
                f"{file} cannot be {value!r}: {error.strerror}", "request CPUs that the host has"
            ) from error
        finally:
            os.close(fd)


def _parse_number(text: bytes, line: str) -> int:
    """The number in a line "NAME NUMBER"; with "", the number that is the whole file."""
    fields = text.split()
    return int(fields[fields.index(line.encode()) + 1] if line else fields[0])


class Cgroups:
    """The cgroups of one supervisor: MOUNT/pytest-hypervisor/PROCESS_ID/GUEST.

    A later supervisor removes the cgroups of a killed one, which the process id identifies.
    """

    def __init__(self) -> None:
        self.root: str | None = None
        mount = _mount_point()
        if mount is None:
            return
        parent = f"{mount}/{_PARENT}"
        try:
            os.makedirs(parent, exist_ok=True)
            _remove_stale(parent)
            self.root = f"{parent}/{process_id(os.getpid())}"
            os.mkdir(self.root)
        except OSError:
            self.root = None
        else:
            for path in (mount, parent, self.root):
                _enable(path)

    def enter(self, guest: str, limits: dict[str, Any]) -> Cgroup:
        """Move the calling process into the guest's cgroup, if the host permits one.

        limits: see Cgroup.limit. Raises ConfigError for limits that cannot be set.
        """
        cgroup = Cgroup(self._join(guest))
        cgroup.limit(limits)
        return cgroup

    def path(self, guest: str) -> str:
        """The directory of a guest's cgroup, which need not exist; "" on a host without cgroups."""
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
            with contextlib.suppress(OSError):  # an empty cgroup would report a guest without cost
                os.rmdir(path)
            return ""
        return path

    def killed_for_memory(self, guest: str) -> bool:
        """Whether the kernel ended the guest because it reached its memory limit."""
        try:
            with open(f"{self.root}/{guest}/memory.events", "rb") as events:
                return _parse_number(events.read(), "oom_kill") > 0
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
    """Enable those controllers in the cgroups below that exist and that we may enable."""
    for controller in _CONTROLLERS:
        with contextlib.suppress(OSError):
            fd = os.open(f"{path}/cgroup.subtree_control", os.O_WRONLY)
            try:
                os.write(fd, b"+" + controller.encode())
            finally:
                os.close(fd)


def _remove(path: str) -> None:
    """Kill the processes in a cgroup (cgroup.kill, Linux 5.14), then remove it once it is empty."""
    if not os.path.isdir(path):
        return
    with contextlib.suppress(OSError):
        kill = os.open(f"{path}/cgroup.kill", os.O_WRONLY)  # never create it
        try:
            os.write(kill, b"1")
        finally:
            os.close(kill)
    for _ in range(_REMOVE_ATTEMPTS):
        try:
            os.rmdir(path)
        except OSError:
            time.sleep(_REMOVE_INTERVAL)
        else:
            return


def _remove_stale(parent: str) -> None:
    """Remove the cgroups of supervisors that have ended."""
    for name in os.listdir(parent):
        if os.path.isdir(f"{parent}/{name}") and not is_process(name):
            _remove_tree(f"{parent}/{name}")


def _remove_tree(path: str) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            _remove(f"{path}/{name}")
        os.rmdir(path)
