"""How busy the host is: CPU and memory (proc(5)), pressure, disks, and the CPUs' power by RAPL.

Documentation/accounting/psi.rst, admin-guide/iostats.rst, power/powercap/powercap.rst of the Linux
sources. What a host does not have, or does not show us, is left out.
"""

from __future__ import annotations

import glob
import os
import time

# the order of /proc/stat's columns; guest time is also counted in user, guest_nice in nice
_COLUMNS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "gnice")
_PRESSURES = ("cpu", "memory", "io")
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
    return {**_pressure(), **_disks(), **_energy()}


def _pressure() -> dict[str, float]:
    found = {}
    for name in _PRESSURES:
        try:
            with open(f"/proc/pressure/{name}", encoding="ascii") as file:
                # "some": microseconds in which at least one task waited
                found[f"pressure.{name}"] = int(file.readline().rpartition("total=")[2]) / 1e4
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


class Utilization:
    """Call `sample` at intervals; each gives what was since the call before."""

    def __init__(self) -> None:
        self._last = _cpu()
        self._then, self._counters = time.monotonic(), _counters()

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
        return {**sample, **self._rates()}

    def _rates(self) -> dict[str, float]:
        now, counters = time.monotonic(), _counters()
        seconds, before = now - self._then, self._counters
        self._then, self._counters = now, counters
        # one that went back (an energy that wrapped, a disk that is gone) tells nothing this time
        return {
            name: (value - before[name]) / seconds
            for name, value in counters.items()
            if seconds > 0 and name in before and value >= before[name]
        }
