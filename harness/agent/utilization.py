"""How busy the host is, from /proc/stat and /proc/meminfo (proc(5)): percentages between looks."""

from __future__ import annotations

# the order of /proc/stat's columns; guest time is also counted in user, guest_nice in nice
_COLUMNS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "gnice")


def _cpu() -> dict[str, int]:
    with open("/proc/stat", encoding="ascii") as stat:
        return dict(zip(_COLUMNS, map(int, stat.readline().split()[1:])))


def _memory() -> dict[str, int]:
    with open("/proc/meminfo", encoding="ascii") as info:
        return {line.split(":")[0]: int(line.split()[1]) for line in info}


class Utilization:
    """Call `sample` at intervals; each gives the share of all CPUs since the call before."""

    def __init__(self) -> None:
        self._last: dict[str, int] | None = _cpu()

    def sample(self) -> dict[str, float]:
        """cpu.* in per cent of all CPUs (they sum to 100), memory.* in MiB; empty when no clock
        tick has passed since the call before."""
        now, last = _cpu(), self._last or {}
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
        return sample
