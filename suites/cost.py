"""Host cost of a workload: CPU time and VM exits between two readings of a guest's counters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from harness.guest.guest import Guest
from harness.plugin.fixtures import RecordSample
from harness.results.schema import Parameter


@dataclass(frozen=True)
class ResourceUsage:
    """Growth of a guest's counters between two readings, by the counter's name."""

    counters: dict[str, int]

    def minus(self, other: ResourceUsage) -> ResourceUsage:
        """Usage beyond `other`, for example a program's run without its start.

        The result has the counters that both have.
        """
        both = self.counters.keys() & other.counters.keys()
        return ResourceUsage({name: self.counters[name] - other.counters[name] for name in both})

    def per_operation(
        self, operations: float, operation_unit: str = "op"
    ) -> Iterator[tuple[str, float, str]]:
        """Name, value and unit of each cost of one operation.

        cpu: us of host CPU time, over all processes of the guest and the kernel's work for them
        (the guest's cgroup). exits: VM exits, counted by KVM. user_exits: exits that reach the VMM.
        A cost without a counter is left out: a container has no exits.
        """
        for name, counter, unit in (
            ("cpu", "cgroup_cpu_usec", f"us/{operation_unit}"),
            ("exits", "exits", f"exits/{operation_unit}"),
            ("user_exits", "user_exits", f"exits/{operation_unit}"),
        ):
            if counter in self.counters and operations > 0:
                yield name, self.counters[counter] / operations, unit

    def record(
        self,
        record_sample: RecordSample,
        metric: str,
        operations: float,
        operation_unit: str = "op",
        parameters: Mapping[str, Parameter] | None = None,
        *,
        boot: int,
    ) -> None:
        """Record each cost of one operation as `metric`.cpu, .exits and .user_exits."""
        for name, value, unit in self.per_operation(operations, operation_unit):
            record_sample(f"{metric}.{name}", value, unit, "lower", parameters, boot=boot)


@dataclass(frozen=True)
class BackgroundExits:
    """Exits that no measured operation causes.

    fixed: exits of the program's start and end. per_second: exits of the host's timer.
    """

    fixed: float
    per_second: float

    @classmethod
    def from_controls(cls, short: tuple[int, float], long: tuple[int, float]) -> BackgroundExits:
        """Background of two control runs, whose operations cause no exits: (exits, seconds)."""
        per_second = max(0.0, long[0] - short[0]) / (long[1] - short[1])
        return cls(max(0.0, short[0] - per_second * short[1]), per_second)

    def exits_per_operation(self, exits: int, seconds: float, operations: int) -> float:
        """Exits of one operation of a run, without the background."""
        return (exits - self.fixed - self.per_second * seconds) / operations


@dataclass
class UsageMeter:
    """Reads a guest's counters when it is created, and again in `read`."""

    guest: Guest
    _start: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._start = self.guest.statistics()

    def read(self) -> ResourceUsage:
        """Usage since the meter was created."""
        now, start = self.guest.statistics(), self._start
        return ResourceUsage({name: value - start.get(name, 0) for name, value in now.items()})
