"""What a workload costs its host: CPU time and exits between two readings of a guest's counters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from harness.guest.guest import Guest
from harness.plugin.fixtures import RecordSample
from harness.results.schema import Parameter


@dataclass(frozen=True)
class Spent:
    """counters: by how much each has grown."""

    counters: dict[str, int]

    def beyond(self, other: Spent) -> Spent:
        """What of this is not in another: of a program's run, less its start."""
        both = self.counters.keys() & other.counters.keys()
        return Spent({name: self.counters[name] - other.counters[name] for name in both})

    def per(self, operations: float, one: str = "op") -> Iterator[tuple[str, float, str]]:
        """Name, value and unit of what one of so many operations cost. one: the unit's name for it.

        cpu: us of the host's CPU, of all processes of the guest and of the kernel's work for them
        (its cgroup's). exits: exits from the guest, by KVM's own count. user_exits: those that
        reached the VMM. Without a counter, as natively for exits, there is no figure.
        """
        for name, counter, unit in (
            ("cpu", "cgroup_cpu_usec", f"us/{one}"),
            ("exits", "exits", f"exits/{one}"),
            ("user_exits", "user_exits", f"exits/{one}"),
        ):
            if counter in self.counters and operations > 0:
                yield name, self.counters[counter] / operations, unit

    def record(
        self,
        keep: RecordSample,
        metric: str,
        operations: float,
        one: str = "op",
        parameters: Mapping[str, Parameter] | None = None,
        *,
        boot: int,
    ) -> None:
        """Keep all of `per`, each as `metric` and its name."""
        for name, value, unit in self.per(operations, one):
            keep(f"{metric}.{name}", value, unit, "lower", parameters, boot=boot)


@dataclass(frozen=True)
class Background:
    """Exits that are not an operation's: a program's own, and the host's timer's a second."""

    fixed: float
    a_second: float

    @classmethod
    def between(cls, short: tuple[int, float], long: tuple[int, float]) -> Background:
        """Of two runs that cause none by what they do: exits and seconds of each."""
        a_second = max(0.0, long[0] - short[0]) / (long[1] - short[1])
        return cls(max(0.0, short[0] - a_second * short[1]), a_second)

    def per_operation(self, exits: int, seconds: float, operations: int) -> float:
        """What is left of a run's exits, for each of its operations."""
        return (exits - self.fixed - self.a_second * seconds) / operations


@dataclass
class Cost:
    """Starts counting when it is made."""

    guest: Guest
    _before: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._before = self.guest.statistics()

    def spent(self) -> Spent:
        """Since it was made."""
        now, before = self.guest.statistics(), self._before
        return Spent({name: value - before.get(name, 0) for name, value in now.items()})
