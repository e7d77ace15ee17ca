"""What the load generator can carry: why it cannot carry a load, before the load is tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from suites.consolidation.judge import MAX_GENERATOR_CPU
from suites.consolidation.target import Schedule, Target

# images/workload/tools/hv-load
_MAX_TARGETS = 16384
_MAX_REQUESTS = 1e8
_REQUEST_BYTES = 32  # of its memory for a request: struct request
_CONNECTION_BYTES = 3 << 10
_MAX_CONNECTIONS = 64  # of a target

_PGBENCH_MIB = 16.0  # with its connections
_LOG_LINE = 48  # bytes, of pgbench's log
_BASE_MIB = 64.0  # the container's init and SSH server
# of this process's memory for a request, while the logs are read and judged; measured: 71, and the
# column `sent` twice
_READER_BYTES = 96
_READER_SHARE = 0.5  # of this machine's available memory
_EXTRAPOLATION = 4.0  # times the requests of the largest measured load


@dataclass(frozen=True)
class MeasuredCost:
    """CPU time of the whole generator for a request, in s, at so many requests a second."""

    rate: float
    seconds: float


@dataclass(frozen=True)
class Capacity:
    """The resources of the generator.

    cpus: their number. memory: MiB of its container. reader_memory: MiB that are available to the
    process that reads the logs. cost: of the largest load so far, None before the first.
    """

    cpus: int
    memory: float
    reader_memory: float
    cost: MeasuredCost | None = None

    def blocker(self, targets: Sequence[Target], schedule: Schedule) -> str:
        """Why it cannot carry this load, or ""."""
        others = [one for one in targets if one.protocol != "pgbench"]
        requests = schedule.requests(others)
        if len(others) > _MAX_TARGETS:
            return f"{len(others)} servers are more than hv-load's {_MAX_TARGETS}"
        if requests > _MAX_REQUESTS:
            return f"{requests:.3g} requests are more than hv-load's {_MAX_REQUESTS:.3g}"
        needed = generator_memory(targets, schedule)
        if needed > self.memory:
            return (
                f"{schedule.requests(targets):.3g} requests need {needed:.0f} MiB of its "
                f"{self.memory:.0f} MiB"
            )
        needed = schedule.requests(targets) * _READER_BYTES / (1 << 20)
        if needed > _READER_SHARE * self.reader_memory:
            return (
                f"{schedule.requests(targets):.3g} requests need {needed:.0f} MiB where they are "
                f"read, and {self.reader_memory:.0f} MiB are available there"
            )
        return self._cpu_blocker(sum(one.rate for one in targets))

    def _cpu_blocker(self, rate: float) -> str:
        """A request costs less CPU time at higher rates, so the estimate is on the safe side. It
        counts only near the measured load."""
        if self.cost is None or rate > _EXTRAPOLATION * self.cost.rate:
            return ""
        share = rate * self.cost.seconds / self.cpus
        if share <= MAX_GENERATOR_CPU:
            return ""
        return (
            f"{rate:.0f} requests/s need about {share:.0%} of its {self.cpus} CPUs, and "
            f"{MAX_GENERATOR_CPU:.0%} are the limit"
        )


def generator_memory(targets: Sequence[Target], schedule: Schedule) -> float:
    """MiB that the generator's container needs for a load, at most."""
    databases = [one for one in targets if one.protocol == "pgbench"]
    others = [one for one in targets if one.protocol != "pgbench"]
    log = sum(one.rate for one in databases) * schedule.seconds * _LOG_LINE
    connections = len(others) * _MAX_CONNECTIONS * _CONNECTION_BYTES
    size = schedule.requests(others) * _REQUEST_BYTES + connections + log
    return _BASE_MIB + len(databases) * _PGBENCH_MIB + size / (1 << 20)
