"""What a load consists of: its targets and its phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One server under load. rate: requests a second. arrivals: "poisson" or "periodic"."""

    protocol: str
    address: str
    port: int
    rate: float
    arrivals: str = "poisson"


@dataclass(frozen=True)
class Schedule:
    """The phases of a load, in seconds: the rate rises, is measured, and answers may still come.

    drain: at most; it ends when all have come. database_drain: of databases, whose load does not
    end before; 0 for the same.
    """

    ramp: float
    measure: float
    drain: float
    database_drain: float = 0.0

    @property
    def seconds(self) -> float:
        return self.ramp + self.measure + self.drain

    def requests(self, targets: Sequence[Target]) -> float:
        """The expected number of requests."""
        return sum(one.rate for one in targets) * (self.ramp / 2 + self.measure)
