"""Demand over a week of a synthetic data centre: seeded, and different at every moment.

Four kinds of machines: of offices (45 %), of the evening (20 %), of the night (15 %), and without a
rhythm (20 %), each shifted by up to two hours. Sizes, utilization, memory for each core, IOPS and
network for each busy core are as unequal as in real data centres (log-normal). Each hour has noise
of its own: 25 % of the CPU, 30 % of IOPS and network, 8 % of memory.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.planner.problem import Problem, Shape

HOURS = 168
CORES, TARGET = 64, 0.7
IOPS, NETWORK = 20_000.0, 1_200.0
# GiB of a host: the scarcest is memory, the CPU, or both alike
MEMORY = {"memory": 512, "cpu": 1024, "balanced": 786}
BATCH = 5000  # machines at once


def demand(machines: int, seed: int) -> NDArray[np.float32]:
    """(machines, METRICS, HOURS)."""
    random = np.random.default_rng(seed)
    kinds = random.choice(4, machines, p=[0.45, 0.2, 0.15, 0.2])
    shifts = random.integers(-2, 3, machines)
    vcpus = random.choice([1.0, 2, 4, 8, 16], machines, p=[0.15, 0.3, 0.35, 0.15, 0.05])
    utilization = np.clip(random.lognormal(np.log(0.08), 0.8, machines), 0.003, 0.8)
    amplitude = random.uniform(0.5, 3, machines)
    rhythm = _rhythms()
    result = np.empty((machines, 4, HOURS), np.float32)
    for start in range(0, machines, BATCH):
        part = slice(start, min(start + BATCH, machines))
        count = part.stop - start
        hours = (np.arange(HOURS)[None, :] - shifts[part, None]) % HOURS
        level = 0.5 + amplitude[part, None] * rhythm[kinds[part, None], hours]
        cpu = (vcpus * utilization)[part, None] * level
        cpu *= random.lognormal(0, 0.25, (count, HOURS))
        cpu = np.minimum(cpu, vcpus[part, None])
        per_core = random.choice([2048.0, 4096, 8192], count, p=[0.4, 0.4, 0.2])
        memory = vcpus[part] * per_core * random.uniform(0.4, 0.95, count)
        result[part, 0] = cpu
        result[part, 1] = memory[:, None] * (1 - 0.08 * random.random((count, HOURS)))
        for metric, median, sigma, limit in ((2, 60.0, 0.8, IOPS), (3, 2.0, 0.9, NETWORK)):
            rate = random.lognormal(np.log(median), sigma, count)[:, None]
            rate = cpu * rate * random.lognormal(0, 0.3, (count, HOURS))
            result[part, metric] = np.minimum(rate, limit / 3)
    return result


def _rhythms() -> NDArray[np.float64]:
    """(kinds, HOURS): from 0 to 1."""
    hour, weekday = np.arange(HOURS) % 24, np.arange(HOURS) < 120

    def peak(at: float, width: float) -> NDArray[np.float64]:
        distance = (hour - at + 12) % 24 - 12
        return np.asarray(np.exp(-0.5 * (distance / width) ** 2))

    return np.stack(
        [
            peak(13, 3.5) * np.where(weekday, 1, 0.15),
            peak(20, 3) * np.where(weekday, 0.8, 1),
            peak(2, 2.5),
            np.full(HOURS, 0.3),
        ]
    )


def problem(machines: int, seed: int, scarce: str = "balanced") -> Problem:
    """A problem of one host type. scarce: a key of MEMORY."""
    usable = np.asarray([CORES * TARGET, MEMORY[scarce] * 1024 * 0.95, IOPS, NETWORK], np.float32)
    failover = usable.copy()
    failover[0] = CORES * 0.95
    names = [f"vm{number}" for number in range(machines)]
    return Problem(names, demand(machines, seed), (Shape("host", usable, failover),))
