"""Utilization of the host (CPU, memory, pressure, disks, power) and of each guest by its cgroup.

Sources: proc(5); Documentation/accounting/psi.rst, admin-guide/iostats.rst,
admin-guide/cgroup-v2.rst and power/powercap/powercap.rst in the Linux sources. Values that a host
does not have or does not show are left out.
"""

from __future__ import annotations

import contextlib
import glob
import os
import time

# columns of /proc/stat; user includes guest, nice includes guest_nice
_COLUMNS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "gnice")
_PRESSURES = ("cpu", "memory", "io")
_GUEST_CPU = ("user", "system")
_RAPL_ZONES = "/sys/class/powercap/intel-rapl:*"
_SECTOR = 512  # bytes, also for disks with larger sectors
# block devices on top of others, which count the same requests
_STACKED = ("loop", "ram", "zram", "dm-", "md")


def _cpu_ticks() -> dict[str, int]:
    """Clock ticks by column, summed over the CPUs that this process may use."""
    allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    with open("/proc/stat", encoding="ascii") as stat:
        lines = [line.split() for line in stat]
    columns = [map(int, words[1:]) for words in lines if words[0] in allowed]
    return dict(zip(_COLUMNS, map(sum, zip(*columns))))


def _counters() -> dict[str, float]:
    """Cumulative counters: pressure.* in 1/100 s, disk.requests, disk.read and disk.write in MiB,
    power.cpu in J."""
    return {**_pressure("/proc/pressure/"), **_disks(), **_energy()}


def _read(path: str) -> bytes:
    """A small file of the kernel, in one read(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _pressure(prefix: str, suffix: str = "") -> dict[str, float]:
    """The pressure of each resource; prefix, suffix: the path around the resource's name."""
    pressures = {}
    for name in _PRESSURES:
        try:
            # the first line, "some": microseconds in which at least one task waited
            some = _read(f"{prefix}{name}{suffix}").partition(b"\n")[0]
            pressures[f"pressure.{name}"] = int(some.rpartition(b"total=")[2]) / 1e4
        except (OSError, ValueError):  # EOPNOTSUPP without psi=1 on the kernel command line
            continue
    return pressures


def _disks() -> dict[str, float]:
    requests = read = written = 0
    try:
        disks = {name for name in os.listdir("/sys/block") if not name.startswith(_STACKED)}
        with open("/proc/diskstats", encoding="ascii") as stats:
            for words in map(str.split, stats):
                if words[2] in disks:
                    requests += int(words[3]) + int(words[7])
                    read, written = read + int(words[5]), written + int(words[9])
    except (OSError, ValueError, IndexError):  # a sandbox may hide these files
        return {}
    mib = (1 << 20) / _SECTOR
    return {"disk.requests": requests, "disk.read": read / mib, "disk.write": written / mib}


def _energy() -> dict[str, float]:
    joules = 0.0
    for zone in glob.glob(_RAPL_ZONES):
        try:
            with open(f"{zone}/name", encoding="ascii") as file:
                if not file.read().startswith("package"):
                    continue  # part of a package, or the platform, which includes packages
            with open(f"{zone}/energy_uj", encoding="ascii") as file:
                joules += int(file.read()) / 1e6
        except (OSError, ValueError):  # only root may read it
            continue
    return {"power.cpu": joules} if joules else {}


def _memory() -> dict[str, int]:
    with open("/proc/meminfo", encoding="ascii") as info:
        return {line.split(":")[0]: int(line.split()[1]) for line in info}


def memory_available() -> float:
    """Available memory of this host, in MiB."""
    return _memory()["MemAvailable"] / 1024


class _Rates:
    """Growth of cumulative counters per second."""

    def __init__(self, counters: dict[str, float]) -> None:
        self._time, self._counters = time.monotonic(), counters

    def update(self, counters: dict[str, float]) -> dict[str, float]:
        """Rates since the last call; counters that decreased are left out."""
        now, before = time.monotonic(), self._counters
        seconds = now - self._time
        self._time, self._counters = now, counters
        # a counter decreases when an energy wraps, or when a disk is removed
        return {
            name: (value - before[name]) / seconds
            for name, value in counters.items()
            if seconds > 0 and name in before and value >= before[name]
        }


class Utilization:
    """The host's utilization between two calls of `sample`."""

    def __init__(self) -> None:
        self._last = _cpu_ticks()
        self._rates = _Rates(_counters())

    def sample(self) -> dict[str, float]:
        """Values since the last call; empty if no clock tick has passed.

        cpu.* in percent of the CPUs that this process may use (their sum is 100), memory.* in MiB,
        pressure.* in percent of time, disk.requests in 1/s, disk.read and disk.write in MiB/s,
        power.cpu in W.
        """
        now, last = _cpu_ticks(), self._last
        self._last = now
        ticks = {name: max(0, now[name] - last.get(name, 0)) for name in now}
        parts = {
            "user": ticks["user"] + ticks["nice"] - ticks["guest"] - ticks["gnice"],
            "system": ticks["system"] + ticks["irq"] + ticks["softirq"],
            "iowait": ticks["iowait"],
            "steal": ticks["steal"],
            "guest": ticks["guest"] + ticks["gnice"],
            "idle": ticks["idle"],
        }
        # user and guest ticks are read at different moments, so a difference may be -1
        parts = {name: max(0, part) for name, part in parts.items()}
        total = sum(parts.values())
        if not total:
            return {}
        sample = {f"cpu.{name}": 100.0 * part / total for name, part in parts.items()}
        memory = _memory()
        sample["memory.total"] = memory["MemTotal"] / 1024
        sample["memory.used"] = (memory["MemTotal"] - memory["MemAvailable"]) / 1024
        return {**sample, **self._rates.update(_counters())}


class GuestUtilization:
    """One guest's utilization between two calls of `sample`, or since its creation."""

    def __init__(self, cgroup: str) -> None:
        """cgroup: its directory, which need not exist yet."""
        self._cgroup = cgroup
        names = [*map("cpu.{}".format, _GUEST_CPU), *map("pressure.{}".format, _PRESSURES)]
        self._rates = _Rates(dict.fromkeys(names, 0.0))

    def sample(self) -> dict[str, float]:
        """cpu.user and cpu.system in percent of one CPU, pressure.* in percent of time, memory.used
        in MiB. Raises OSError if the cgroup does not exist."""
        words = _read(f"{self._cgroup}/cpu.stat").split()
        stat = dict(zip(words[::2], words[1::2]))
        times = {f"cpu.{part}": int(stat[b"%s_usec" % part.encode()]) / 1e4 for part in _GUEST_CPU}
        values = self._rates.update({**times, **_pressure(f"{self._cgroup}/", ".pressure")})
        with contextlib.suppress(OSError):  # the controller is not enabled
            values["memory.used"] = int(_read(f"{self._cgroup}/memory.current")) / (1 << 20)
        return values
