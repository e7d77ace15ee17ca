"""What makes a host's figures vary: looked for before a measurement and told, never changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from harness.hosts.base import HostFacts
from harness.hosts.facts import first_line, parse_sections
from harness.ssh.process import Completed

BUSY = 0.25  # of all CPUs, by the load average of the last minute
_SWAPPED = 64 << 10  # KiB that are no accident any more
_SCRIPT = r"""
echo '@ load'; cat /proc/loadavg
echo '@ cpus'; getconf _NPROCESSORS_ONLN 2>/dev/null
echo '@ memory'; grep -E '^Swap(Total|Free):' /proc/meminfo
echo '@ virtual'; grep -m 1 -o -w hypervisor /proc/cpuinfo
cd /sys || exit 0
echo '@ boost'; cat devices/system/cpu/cpufreq/boost 2>/dev/null
echo '@ no_turbo'; cat devices/system/cpu/intel_pstate/no_turbo 2>/dev/null
echo '@ ksm'; cat kernel/mm/ksm/run 2>/dev/null
echo '@ shmem'; grep -o '\[[a-z_]*\]' kernel/mm/transparent_hugepage/shmem_enabled 2>/dev/null
echo '@ power'; cat class/power_supply/*/status 2>/dev/null
true
"""


def load_here() -> float:
    """How busy this machine was in the last minute, of all its CPUs."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def look(run: Callable[[list[str]], Completed], facts: HostFacts, load: float) -> list[str]:
    """A line for each thing on a host that makes figures vary, with what would end it.

    load: of this machine, before we did anything: what counts for a host that it emulates.
    """
    if facts.backend == "emulated":
        return [_busy(load, "the machine that emulates the host")] if load > BUSY else []
    return judge(run(["sh", "-c", _SCRIPT]).stdout, facts)


def judge(text: str, facts: HostFacts) -> list[str]:
    """Of what the script printed."""
    sections = parse_sections(text)
    one = partial(first_line, sections)
    found = []
    if facts.governor not in ("", "performance"):
        found.append(
            f"the CPUs' clock follows the load (governor {facts.governor}): "
            "cpupower frequency-set -g performance"
        )
    if one("boost") == "1" or one("no_turbo") == "0":
        found.append("the CPUs' clock follows their heat (boost): switch it off while measuring")
    if facts.smt == "on":
        found.append(
            "two threads share a core (SMT): write off to /sys/devices/system/cpu/smt/control"
        )
    if one("virtual"):
        found.append("the host is a virtual machine: others may take its CPUs' time")
    load = float((one("load").split() or ["0"])[0]) / int(one("cpus") or facts.cpus)
    if load > BUSY:
        found.append(_busy(load, "the host"))
    swap = {line.split(":")[0]: int(line.split()[1]) for line in sections.get("memory", [])}
    if swap.get("SwapTotal", 0) - swap.get("SwapFree", 0) > _SWAPPED:
        found.append("the host has swapped memory out: free some, or swapoff -a")
    if one("ksm") == "1":
        found.append("KSM merges pages meanwhile: echo 0 > /sys/kernel/mm/ksm/run")
    if one("shmem") in ("[never]", "[deny]"):
        found.append(
            "memory that a guest shares with its disk's daemon has no huge pages, which makes "
            "it slow: echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled"
        )
    if "Discharging" in sections.get("power", []):
        found.append("the host runs on battery: plug it in")
    return found


def _busy(load: float, what: str) -> str:
    return f"{what} was busy before the first test ({load:.0%} of its CPUs): end what runs there"
