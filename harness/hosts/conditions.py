"""Conditions of a host that make its figures vary. They are reported and never changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from harness.hosts.base import HostFacts
from harness.hosts.facts import first_line, parse_sections
from harness.ssh.process import Completed

BUSY = 0.25  # load average of the last minute, divided by the number of CPUs
_MAX_SWAPPED = 64 << 10  # KiB; a few unused pages do no harm
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


def local_load() -> float:
    """This machine's load average of the last minute, divided by its number of CPUs."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def find_disturbances(
    run: Callable[[list[str]], Completed], facts: HostFacts, load: float
) -> list[str]:
    """One line for each condition on a host that makes figures vary, with its remedy.

    load: local_load() at the start of the session. It counts for a host that this machine emulates.
    """
    if facts.backend == "emulated":
        machine, cpus = "the machine that emulates the host", os.cpu_count() or 1
        return [_busy(load, cpus, machine)] if load > BUSY else []
    return parse_disturbances(run(["sh", "-c", _SCRIPT]).stdout, facts)


def parse_disturbances(text: str, facts: HostFacts) -> list[str]:
    """See find_disturbances(). text: the output of the script."""
    sections = parse_sections(text)
    line_of = partial(first_line, sections)
    lines = []
    if facts.governor not in ("", "performance"):
        lines.append(
            f"the CPUs' clock follows the load (governor {facts.governor}): run "
            "cpupower frequency-set -g performance"
        )
    if line_of("boost") == "1" or line_of("no_turbo") == "0":
        lines.append("the CPUs' clock follows their temperature (boost): switch boost off")
    if facts.smt == "on":
        lines.append(
            "two threads share a core (SMT): write off to /sys/devices/system/cpu/smt/control"
        )
    if line_of("virtual"):
        lines.append("the host is a virtual machine: other machines may take its CPU time")
    cpus = int(line_of("cpus") or facts.cpus)
    load = float((line_of("load").split() or ["0"])[0]) / cpus
    if load > BUSY:
        lines.append(_busy(load, cpus, "the host"))
    swap = {line.split(":")[0]: int(line.split()[1]) for line in sections.get("memory", [])}
    if swap.get("SwapTotal", 0) - swap.get("SwapFree", 0) > _MAX_SWAPPED:
        lines.append("the host has swapped memory out: free memory, or run swapoff -a")
    if line_of("ksm") == "1":
        lines.append("KSM merges pages: write 0 to /sys/kernel/mm/ksm/run")
    if line_of("shmem") in ("[never]", "[deny]"):
        lines.append(
            "memory that a guest shares with its disk's daemon has no huge pages and is slow: "
            "write advise to /sys/kernel/mm/transparent_hugepage/shmem_enabled"
        )
    if "Discharging" in sections.get("power", []):
        lines.append("the host runs on battery: connect it to mains power")
    return lines


def _busy(load: float, cpus: int, machine: str) -> str:
    average = f"load average {load * cpus:.1f} on {cpus} {'CPU' if cpus == 1 else 'CPUs'}"
    return f"{machine} was busy before the first test ({average}): end other programs"
