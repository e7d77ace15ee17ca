"""Failures of hosts and racks: their machines are really packed onto the hosts that are left.

Where several hosts fail at once, all sets of so many hosts are tried if they are few. Else these
are: the most loaded hosts, neighbours in the list, and a sample of all sets. Machines move to other
hosts within Shape.failover; the others stay where they are. Groups that are apart, together or in
conflict stay so. A spread over racks and the number of licensed hosts may be exceeded meanwhile.
A pinned machine cannot run elsewhere: it is unplaced if its host fails.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.planner.plan import Failure
from harness.planner.problem import TOLERANCE, PackedHost, Problem
from harness.planner.together import merge

MOST_SETS = 2000  # of hosts that fail at once
CHUNK = 64  # hosts that are tried at once


@dataclass(frozen=True)
class FailureSet:
    """Hosts that fail at once. racks: the racks that fail, empty if hosts fail."""

    name: str
    hosts: tuple[int, ...]
    racks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unit:
    """Machines that move together. size: (metrics x slots,), in shares of the largest failover."""

    machines: tuple[int, ...]
    size: NDArray[np.float32]


class Survivors:
    """The hosts with the room that each has when others fail."""

    def __init__(self, problem: Problem, hosts: Sequence[PackedHost]) -> None:
        self.problem = problem
        self.hosts = tuple(hosts)
        failover = np.stack([np.asarray(one.failover, np.float64) for one in problem.shapes])
        finite = np.where(np.isfinite(failover), failover, 0.0).max(axis=0)
        self._scale = np.where(finite > 0, finite, 1.0)
        slots = problem.demand.shape[2]
        self._shape_limits = np.repeat(failover / self._scale, slots, axis=1)
        shapes = [host.shape for host in hosts]
        loads = np.stack([self.size(host.machines) for host in hosts])
        self.limits = self._shape_limits[shapes]
        self.room = (self.limits * (1 + TOLERANCE) - loads).astype(np.float32)
        self.slack = self.room.min(axis=1)
        self._shares = self._share(np.arange(len(hosts)))
        self._host_of = np.full(len(problem.machines), -1, np.int64)
        for number, host in enumerate(hosts):
            self._host_of[list(host.machines)] = number
        constraints = problem.constraints
        self._apart: dict[int, list[tuple[int, ...]]] = {}
        for group in (*constraints.apart, *constraints.conflicts):
            for machine in group:
                self._apart.setdefault(machine, []).append(group)
        self._together: dict[int, tuple[int, ...]] = {
            machine: group
            for group in merge(len(problem.machines), constraints.together)
            if len(group) > 1
            for machine in group
        }

    def limits_of(self, shape: int) -> NDArray[np.float64]:
        """(metrics x slots,): the failover capacity of a host, in shares of the largest one."""
        limits: NDArray[np.float64] = self._shape_limits[shape]
        return limits

    def size(self, machines: Sequence[int]) -> NDArray[np.float32]:
        demand = self.problem.demand[list(machines)].sum(axis=0, dtype=np.float64)
        return np.asarray(demand / self._scale[:, None], np.float32).ravel()

    def units(self, failed: Iterable[int]) -> tuple[list[Unit], list[int]]:
        """What must run elsewhere, the largest first; and the machines that cannot: pinned ones."""
        pins = self.problem.constraints.pins
        groups = {
            self._together.get(machine, (machine,))
            for host in failed
            for machine in self.hosts[host].machines
        }
        pinned = {group for group in groups if any(machine in pins for machine in group)}
        units = [Unit(group, self.size(group)) for group in sorted(groups - pinned)]
        units.sort(key=lambda unit: -float(unit.size.max()))
        return units, [machine for group in pinned for machine in group]

    def pack(self, failed: Sequence[int]) -> tuple[list[Unit], float]:
        """Pack the units of failed hosts onto the others. Returns what has no place, and the
        highest share of the failover capacity on any other host."""
        units, _ = self.units(failed)
        best: tuple[list[Unit], float] | None = None
        for emptiest_first in (True, False):
            found = self._attempt(failed, units, emptiest_first=emptiest_first)
            if best is None or len(found[0]) < len(best[0]):
                best = found
            if not best[0]:
                break
        return best or ([], 0.0)

    def _attempt(
        self, failed: Sequence[int], units: Sequence[Unit], *, emptiest_first: bool
    ) -> tuple[list[Unit], float]:
        saved: dict[int, NDArray[np.float32]] = {}
        homes = self._host_of.copy()
        homes[[m for host in failed for m in self.hosts[host].machines]] = -1
        alive = np.ones(len(self.hosts), bool)
        alive[list(failed)] = False
        slack, shares = self.slack.copy(), self._shares.copy()
        unplaced = []
        for unit in units:
            allowed = alive.copy()
            allowed[self._excluded(unit, homes)] = False
            host = self._choose(unit, allowed, slack if emptiest_first else -slack)
            if host < 0:
                unplaced.append(unit)
                continue
            saved.setdefault(host, self.room[host].copy())
            self.room[host] -= unit.size
            slack[host] = self.room[host].min()
            homes[list(unit.machines)] = host
        touched = np.asarray(sorted(saved), np.int64)
        shares[touched] = self._share(touched)
        for host, room in saved.items():
            self.room[host] = room
        return unplaced, float(shares[alive].max(initial=0.0))

    def _excluded(self, unit: Unit, homes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Hosts with a machine that must be apart from the unit's machines."""
        others = [
            other
            for machine in unit.machines
            for group in self._apart.get(machine, ())
            for other in group
            if other not in unit.machines
        ]
        hosts = homes[others]
        return hosts[hosts >= 0]

    def _choose(self, unit: Unit, allowed: NDArray[np.bool_], order: NDArray[np.float32]) -> int:
        """The first host with room for the unit, in descending order; -1 if there is none."""
        candidates = np.flatnonzero(allowed)
        candidates = candidates[np.argsort(-order[candidates], kind="stable")]
        chunk = CHUNK
        while len(candidates):
            some, candidates = candidates[:chunk], candidates[chunk:]
            fitting = (self.room[some] >= unit.size).all(axis=1)
            if fitting.any():
                return int(some[np.argmax(fitting)])
            chunk *= 4
        return -1

    def _share(self, hosts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of each host the highest share of its failover capacity, without limits that are 0."""
        limits = self.limits[hosts]
        limited = np.isfinite(limits) & (limits > 0)
        finite = np.where(limited, limits, 1.0)
        used = finite * (1 + TOLERANCE) - np.where(limited, self.room[hosts], 0.0)
        shares = np.where(limited, used / finite, 0.0)
        return np.asarray(shares.max(axis=1, initial=0.0), np.float64)


def check_failures(
    problem: Problem,
    hosts: Sequence[PackedHost],
    *,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Failure, ...]:
    """What happens if `problem.spare` hosts or `problem.spare_racks` racks fail at once.

    stop: returns True to end the check early; the result is then incomplete.
    """
    if not hosts:
        return ()
    survivors = Survivors(problem, hosts)
    failures = []
    for failure in failure_sets(problem, hosts, survivors):
        if stop():
            break
        unplaced, peak = survivors.pack(failure.hosts)
        _, pinned = survivors.units(failure.hosts)
        lost = sorted([machine for unit in unplaced for machine in unit.machines] + pinned)
        names = tuple(problem.machines[machine] for machine in lost)
        count = sum(len(hosts[host].machines) for host in failure.hosts)
        failures.append(Failure(failure.name, count, names, peak))
    return tuple(failures)


def failure_sets(
    problem: Problem, hosts: Sequence[PackedHost], survivors: Survivors
) -> Iterator[FailureSet]:
    """All that may fail at once: spare hosts, and spare racks."""
    if problem.spare:
        for failed in _sets(survivors.slack, problem.spare):
            yield FailureSet(" + ".join(hosts[host].name for host in failed), failed)
    if problem.spare_racks:
        racks: dict[str, list[int]] = {}
        for number, host in enumerate(hosts):
            racks.setdefault(host.rack, []).append(number)
        names = sorted(racks)
        slack = np.asarray([-float(len(racks[name])) for name in names])
        for chosen in _sets(slack, problem.spare_racks):
            failing = tuple(names[rack] for rack in chosen)
            failed = tuple(host for name in failing for host in racks[name])
            yield FailureSet(" + ".join(f"rack {name}" for name in failing), failed, failing)


def _sets(slack: NDArray[np.floating], size: int) -> Iterator[tuple[int, ...]]:
    """Sets of so many of len(slack) hosts or racks, those with the least slack in any case."""
    count = len(slack)
    size = min(size, count)
    if math.comb(count, size) <= MOST_SETS or size == 1:
        yield from itertools.combinations(range(count), size)
        return
    chosen = {tuple(sorted(np.argsort(slack, kind="stable")[:size].tolist()))}
    chosen.update(tuple(range(start, start + size)) for start in range(count - size + 1))
    random = np.random.default_rng(0)
    while len(chosen) < MOST_SETS:
        chosen.add(tuple(sorted(random.choice(count, size, replace=False).tolist())))
    yield from sorted(chosen)
