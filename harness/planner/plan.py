"""A plan: the result of `plan solve`, and all that its reports say.

A plan is one JSON file. Its classes hold plain numbers, so that JSON, CSV and pages are made of the
same values. Amounts of money are in Plan.currency; None means that nobody gave a price.
"""

from __future__ import annotations

from dataclasses import dataclass

PLAN_VERSION = 1


@dataclass(frozen=True)
class Assumption:
    """A value that was not measured here. source: who says so, or "given" or "assumed"."""

    name: str
    value: str
    source: str


@dataclass(frozen=True)
class Fleet:
    """Totals of a set of hosts, before or after. Energy is that of a year with PUE.

    kw: mean electrical power with PUE. kg_co2: of a year, with the embodied part spread over the
    hosts' life. money: of a year: energy, hardware over its life, licences, rack units.
    """

    hosts: int
    cores: float
    memory_gib: float
    racks: int
    rack_units: float
    kw: float
    kwh: float
    kg_co2: float
    energy_cost: float | None
    hardware_cost: float | None
    licence_cost: float | None
    rack_cost: float | None
    cpu_utilization: float  # mean over time and hosts, from 0 to 1


@dataclass(frozen=True)
class PlannedHost:
    """One host and its machines.

    peak: of each metric the highest share of the usable capacity at any sample, from 0 to 1.
    hours: of CPU, the highest share of the usable capacity in each of the 168 hours of the week,
    from Monday 0:00 UTC. watts: mean.
    """

    name: str
    type: str
    rack: str
    machines: tuple[str, ...]
    peak: dict[str, float]
    hours: tuple[float, ...]
    watts: float
    existing: bool


@dataclass(frozen=True)
class Failure:
    """What happens if a host or a rack fails. unplaced: machines that nobody can run then.
    worst_peak: the highest share of the failover capacity on any other host."""

    failed: str
    machines: int
    unplaced: tuple[str, ...]
    worst_peak: float


@dataclass(frozen=True)
class Variant:
    """One what-if, or the plan itself. hosts: the number; bound: of hosts."""

    name: str
    hosts: int
    bound: float
    racks: int
    kw: float
    kwh: float
    kg_co2: float
    cost: float | None  # of a year
    note: str = ""


@dataclass(frozen=True)
class Backtest:
    """A plan on the first part of the trace, checked against the rest.

    samples: of hosts in the rest. over_target, over_capacity: how many of them. worst: the highest
    share of the real capacity.
    """

    planned_days: float
    checked_days: float
    hosts: int
    samples: int
    over_target: int
    over_capacity: int
    worst: float


@dataclass(frozen=True)
class MachineAdvice:
    """A machine that looks idle or too large. kind: "comatose" or "oversized"."""

    machine: str
    kind: str
    vcpus: float
    memory_mib: float | None
    cpu_mean: float  # cores
    cpu_peak: float  # cores
    suggestion: str


@dataclass(frozen=True)
class Move:
    """A machine that changes its host. source: "" where it is unknown."""

    machine: str
    source: str
    target: str


@dataclass(frozen=True)
class Sensitivity:
    """A bar of the tornado: hosts, or the cost of a year, when one assumption is low or high."""

    name: str
    low_value: str
    high_value: str
    low: float
    high: float
    base: float
    unit: str


@dataclass(frozen=True)
class Demand:
    """Summed over machines in each hour of the week: the highest sum. allocated: what is
    configured. usable: of the planned hosts."""

    metric: str
    hours: tuple[float, ...]
    allocated: float
    usable: float


@dataclass(frozen=True)
class Plan:
    """See the classes above. headline: such as "412 servers to 31 hosts, bound 30".

    banners: sentences a reader must see first, such as a trace of less than seven days.
    interrupted: the best plan until an interruption.
    """

    version: int
    headline: str
    data: str
    currency: str
    before: Fleet | None
    after: Fleet
    bound: float
    bound_reason: str
    interrupted: bool
    banners: tuple[str, ...]
    hosts: tuple[PlannedHost, ...]
    failures: tuple[Failure, ...]
    variants: tuple[Variant, ...]
    backtest: Backtest | None
    advice: tuple[MachineAdvice, ...]
    moves: tuple[Move, ...]
    tornado: tuple[Sensitivity, ...]
    demand: tuple[Demand, ...]
    assumptions: tuple[Assumption, ...]
    without_trace: tuple[str, ...]  # machines that are planned by their allocation
    left_out: tuple[str, ...]  # templates and machines that are powered off
