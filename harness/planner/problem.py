"""The packing problem: which machine runs on which host, at every moment within its capacity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# Demand is float32, whose sums have rounding errors: a host may exceed a capacity by this share.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Shape:
    """One type of host, as the solver sees it.

    usable: of each metric, what machines may use together, after the target utilization and the
    host's own needs; infinite for a metric that is not planned. failover: the same while other
    hosts have failed. count: how many there are or may be bought; None: any number. cost: what the
    solver minimizes, the same unit for all shapes. racks: for each of the `count` hosts the rack it
    stands in; empty where racks follow from `per_rack`. names: of hosts that exist already.
    """

    name: str
    usable: NDArray[np.float32]  # (len(METRICS),)
    failover: NDArray[np.float32]  # (len(METRICS),)
    count: int | None = None
    cost: float = 1.0
    per_rack: int = 20
    racks: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Constraints:
    """Each sequence holds indices of machines.

    apart: of each group no two machines share a host. together: each group shares one host. spread:
    of each group no more than half share a rack. licensed: each group's machines use as few hosts
    as possible. pins: the machine's only host, by the name of a host that exists. conflicts: pairs
    that must not share a host.
    """

    apart: tuple[tuple[int, ...], ...] = ()
    together: tuple[tuple[int, ...], ...] = ()
    spread: tuple[tuple[int, ...], ...] = ()
    licensed: tuple[tuple[int, ...], ...] = ()
    pins: Mapping[int, str] = field(default_factory=dict)
    conflicts: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Problem:
    """What the solver gets.

    demand: (machines, len(METRICS), slots), with the overhead of the hypervisor. A slot is a moment
    or a set of moments, such as an hour of the week; demand in it is the highest of its moments.
    The same slot of two machines is the same time. spare: so many hosts may fail at once.
    """

    machines: Sequence[str]
    demand: NDArray[np.float32]
    shapes: tuple[Shape, ...]
    constraints: Constraints = Constraints()
    spare: int = 0
    spare_racks: int = 0


@dataclass(frozen=True)
class PackedHost:
    """One host of a packing. shape: index in Problem.shapes. machines: indices."""

    name: str
    shape: int
    rack: str
    machines: tuple[int, ...]


@dataclass(frozen=True)
class Packing:
    """A solution.

    bound: no solution has fewer hosts (or less cost, where shapes differ in it). bound_reason: a
    sentence that names what needs so many. status: "optimal" if proved, "feasible", or
    "interrupted" for the best that was found until an interruption or the time limit.
    """

    hosts: tuple[PackedHost, ...]
    bound: float
    bound_reason: str
    status: Literal["optimal", "feasible", "interrupted"]
    seconds: float
