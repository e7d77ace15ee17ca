"""How busy the host is: CPU and memory (proc(5)), pressure, disks, and the CPUs' power by RAPL; and
what each guest takes of it, by its cgroup.

Documentation/accounting/psi.rst, admin-guide/iostats.rst, admin-guide/cgroup-v2.rst,
power/powercap/powercap.rst of the Linux sources. What a host does not have, or does not show us, is
left out.
"""

from __future__ import annotations

import contextlib
import glob
import os
import time

# the order of /proc/stat's columns; guest time is also counted in user, guest_nice in nice
_COLUMNS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "gnice")
_PRESSURES = ("cpu", "memory", "io")
_GUEST_CPU = ("user", "system")
_ENERGIES = "/sys/class/powercap/intel-rapl:*"
_SECTOR = 512  # bytes, whatever the disk's own are
# made of others, whose requests are counted there
_DERIVED = ("loop", "ram", "zram", "dm-", "md")


def _cpu() -> dict[str, int]:
    """Of the CPUs that are ours to use."""
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    with open("/proc/stat", encoding="ascii") as stat:
        lines = [line.split() for line in stat]
    each = [map(int, words[1:]) for words in lines if words[0] in ours]
    return dict(zip(_COLUMNS, map(sum, zip(*each))))


def _counters() -> dict[str, float]:
    """What only grows, by name: pressure.* in hundredths of a second, disk.requests, disk.read and
    disk.write in MiB, power.cpu in joules."""
    return {**_pressure("/proc/pressure/"), **_disks(), **_energy()}


def _read(path: str) -> bytes:
    """A small file of the kernel's, with no more calls of it than that takes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _pressure(before: str, after: str = "") -> dict[str, float]:
    """before, after: the resource's name in a file's."""
    found = {}
    for name in _PRESSURES:
        try:
            # "some", the first: microseconds in which at least one task waited
            some = _read(f"{before}{name}{after}").partition(b"\n")[0]
            found[f"pressure.{name}"] = int(some.rpartition(b"total=")[2]) / 1e4
        except (OSError, ValueError):  # also EOPNOTSUPP: the kernel was started without psi=1
            continue
    return found


def _disks() -> dict[str, float]:
    requests = read = written = 0
    try:
        whole = {name for name in os.listdir("/sys/block") if not name.startswith(_DERIVED)}
        with open("/proc/diskstats", encoding="ascii") as stats:
            for words in map(str.split, stats):
                if words[2] in whole:
                    requests += int(words[3]) + int(words[7])
                    read, written = read + int(words[5]), written + int(words[9])
    except (OSError, ValueError, IndexError):  # a sandbox may hide either
        return {}
    mib = (1 << 20) / _SECTOR
    return {"disk.requests": requests, "disk.read": read / mib, "disk.write": written / mib}


def _energy() -> dict[str, float]:
    joules = 0.0
    for zone in glob.glob(_ENERGIES):
        try:
            with open(f"{zone}/name", encoding="ascii") as file:
                if not file.read().startswith("package"):
                    continue  # a part of one, or the whole platform with them in it
            with open(f"{zone}/energy_uj", encoding="ascii") as file:
                joules += int(file.read()) / 1e6
        except (OSError, ValueError):  # root alone may read it
            continue
    return {"power.cpu": joules} if joules else {}


def _memory() -> dict[str, int]:
    with open("/proc/meminfo", encoding="ascii") as info:
        return {line.split(":")[0]: int(line.split()[1]) for line in info}


def memory_available() -> float:
    """Of this host, in MiB."""
    return _memory()["MemAvailable"] / 1024


class _Rates:
    """Of what only grows: by how much it grew a second since the call before."""

    def __init__(self, counters: dict[str, float]) -> None:
        self._then, self._counters = time.monotonic(), counters

    def since(self, counters: dict[str, float]) -> dict[str, float]:
        now, before = time.monotonic(), self._counters
        seconds = now - self._then
        self._then, self._counters = now, counters
        # one that went back (an energy that wrapped, a disk that is gone) tells nothing this time
        return {
            name: (value - before[name]) / seconds
            for name, value in counters.items()
            if seconds > 0 and name in before and value >= before[name]
        }


class Utilization:
    """Call `sample` at intervals; each gives what was since the call before."""

    def __init__(self) -> None:
        self._last = _cpu()
        self._rates = _Rates(_counters())

    def sample(self) -> dict[str, float]:
        """cpu.* in per cent of all CPUs that are ours (they sum to 100), memory.* in MiB,
        pressure.* in per cent of the time, disk.requests in 1/s, disk.read and disk.write in MiB/s,
        power.cpu in W; empty when no clock tick has passed since the call before."""
        now, last = _cpu(), self._last
        self._last = now
        spent = {name: max(0, now[name] - last.get(name, 0)) for name in now}
        parts = {
            "user": spent["user"] + spent["nice"] - spent["guest"] - spent["gnice"],
            "system": spent["system"] + spent["irq"] + spent["softirq"],
            "iowait": spent["iowait"],
            "steal": spent["steal"],
            "guest": spent["guest"] + spent["gnice"],
            "idle": spent["idle"],
        }
        # user and guest ticks are not read at one moment: their difference may be a tick below 0
        parts = {name: max(0, ticks) for name, ticks in parts.items()}
        total = sum(parts.values())
        if not total:
            return {}
        sample = {f"cpu.{name}": 100.0 * ticks / total for name, ticks in parts.items()}
        memory = _memory()
        sample["memory.total"] = memory["MemTotal"] / 1024
        sample["memory.used"] = (memory["MemTotal"] - memory["MemAvailable"]) / 1024
        return {**sample, **self._rates.since(_counters())}


class GuestUtilization:
    """Of one guest, from its making on. Call `sample` at intervals, as of Utilization."""

    def __init__(self, cgroup: str) -> None:
        """cgroup: its directory, which need not be there yet."""
        self._cgroup = cgroup
        names = [*map("cpu.{}".format, _GUEST_CPU), *map("pressure.{}".format, _PRESSURES)]
        self._rates = _Rates(dict.fromkeys(names, 0.0))

    def sample(self) -> dict[str, float]:
        """cpu.user and cpu.system in per cent of one CPU, pressure.* in per cent of the time,
        memory.used in MiB. Raises OSError where there is no cgroup (any more)."""
        words = _read(f"{self._cgroup}/cpu.stat").split()
        stat = dict(zip(words[::2], words[1::2]))
        spent = {f"cpu.{part}": int(stat[b"%s_usec" % part.encode()]) / 1e4 for part in _GUEST_CPU}
        values = self._rates.since({**spent, **_pressure(f"{self._cgroup}/", ".pressure")})
        with contextlib.suppress(OSError):  # without this controller
            values["memory.used"] = int(_read(f"{self._cgroup}/memory.current")) / (1 << 20)
        return values
