"""Machines that look idle, and machines that are larger than what they need."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from harness.planner.plan import Assumption, MachineAdvice
from harness.planner.reduction import CPU, IOPS, MEMORY, NETWORK, Profile

# a machine is comatose if all of these hold, as far as they are measured
_IDLE_MEAN = 0.01  # of its vCPUs
_IDLE_PEAK = 0.10
_IDLE_IOPS = 2.0  # operations/s, mean
_IDLE_NETWORK = 0.02  # MiB/s, mean
_HEADROOM = 1.25  # over its highest demand
_OVERSIZED = 2.0  # times what it needs
_SMALLEST_MIB = 2048.0  # memory below this is not worth a change

ASSUMPTIONS = (
    Assumption(
        "comatose machine",
        f"CPU at most {_IDLE_MEAN:.0%} on average and {_IDLE_PEAK:.0%} ever, "
        f"{_IDLE_IOPS:g} operations/s, {_IDLE_NETWORK:g} MiB/s",
        "assumed",
    ),
    Assumption(
        "oversized machine",
        f"allocated at least {_OVERSIZED:g} times its highest demand with {_HEADROOM - 1:.0%} "
        "added",
        "assumed",
    ),
)


def advise(profile: Profile) -> tuple[MachineAdvice, ...]:
    """Machines with a trace only. A comatose machine is not listed as oversized."""
    return tuple(_advice(profile))


def _advice(profile: Profile) -> Iterator[MachineAdvice]:
    machines = profile.machines
    for index in np.flatnonzero(~np.isnan(profile.mean[:, CPU])):
        vcpus = float(machines.vcpus[index])
        memory = float(machines.memory_mib[index])
        rating = float(machines.rating[index])
        mean, peak = (float(part[index, CPU]) / rating for part in (profile.mean, profile.peak))
        if _comatose(profile, int(index), mean / vcpus, peak / vcpus):
            kind, suggestion = "comatose", "ask its owner whether it can be switched off"
        else:
            kind = "oversized"
            suggestion = _smaller(vcpus, peak, memory, float(profile.peak[index, MEMORY]))
        if suggestion:
            yield MachineAdvice(
                machine=machines.names[index],
                kind=kind,
                vcpus=vcpus,
                memory_mib=None if math.isnan(memory) else memory,
                cpu_mean=mean,
                cpu_peak=peak,
                suggestion=suggestion,
            )


def _comatose(profile: Profile, index: int, mean: float, peak: float) -> bool:
    """mean, peak: shares of the vCPUs. What nobody measured is NaN, and does not count."""
    busy = (
        mean > _IDLE_MEAN
        or peak > _IDLE_PEAK
        or profile.mean[index, IOPS] > _IDLE_IOPS
        or profile.mean[index, NETWORK] > _IDLE_NETWORK
    )
    return not busy


def _smaller(vcpus: float, cpu_peak: float, memory: float, memory_peak: float) -> str:
    """A smaller size of a machine, or "". Sizes may be NaN."""
    parts = []
    cpus = max(1, math.ceil(cpu_peak * _HEADROOM))
    if vcpus >= _OVERSIZED * cpus:
        parts.append(f"{cpus} vCPU{'s' if cpus > 1 else ''}")
    if memory >= _SMALLEST_MIB and memory >= _OVERSIZED * memory_peak * _HEADROOM:
        gib = math.ceil(memory_peak * _HEADROOM / 512) / 2
        parts.append(f"{max(gib, 0.5):g} GiB")
    return f"{' and '.join(parts)} would do" if parts else ""
