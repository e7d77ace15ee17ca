"""Benchmarks of the planner's solver: instances with a known optimum, and growth with the size.

    python -m benchmarks.packing triplets [ARCHIVE]
    python -m benchmarks.packing growth [--sizes 1000 10000] [--seeds 5] [--scarce cpu] [--spare 1]

triplets: the mean gap to the optimum of 240 published instances. growth: seconds, peak memory and
gap to the bound of a synthetic data centre, each size in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import packing_demand
from harness.planner.packing import solve
from harness.planner.packing.bounds import lower_bound
from harness.planner.packing.budget import Budget
from harness.planner.packing.instance import UNBOUNDED, Instance
from harness.planner.packing.solver import pack
from harness.planner.problem import Packing, Problem

ARCHIVE = Path(__file__).parent / "data" / "vector-packing-triplet.tar.gz"
SECONDS = 10.0  # of each triplet instance
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)


@dataclass(frozen=True)
class TripletResult:
    name: str
    optimum: int
    bound: float
    hosts: int
    seconds: float
    proved: bool

    @property
    def gap(self) -> float:
        return self.hosts / self.optimum - 1


def triplet_instances(archive: Path) -> Iterator[tuple[str, Instance]]:
    """(name, instance) of each file."""
    with tarfile.open(archive) as files:
        for member in sorted(files.getmembers(), key=lambda one: one.name):
            file = files.extractfile(member) if member.isfile() else None
            if file is not None:
                yield Path(member.name).stem, read_instance(file.read().decode())


def read_instance(text: str) -> Instance:
    """Format: dimensions; bin size in each; types; then sizes and number of each type."""
    numbers = np.asarray(text.split(), np.int64)
    dimensions = int(numbers[0])
    capacity = numbers[1 : 1 + dimensions].astype(np.float64)
    rows = numbers[2 + dimensions :].reshape(int(numbers[1 + dimensions]), dimensions + 1)
    sizes = np.repeat(rows[:, :dimensions], rows[:, dimensions], axis=0) / capacity
    return Instance(
        sizes.astype(np.float32),
        np.ones((1, dimensions)),
        np.ones(1),
        np.asarray([UNBOUNDED], np.int64),
    )


def solve_triplet(name: str, instance: Instance, seconds: float = SECONDS) -> TripletResult:
    started = time.monotonic()
    bound = lower_bound(instance, str)
    solution, proved = pack(instance, bound, Budget(seconds), 0)
    check(instance, [filling.items for filling in solution.fillings])
    hosts = len(solution.fillings)
    optimum = instance.items // 3
    return TripletResult(name, optimum, bound.value, hosts, time.monotonic() - started, proved)


def check(instance: Instance, fillings: list[tuple[int, ...]]) -> None:
    """Each item is on one host, and none is over its capacity."""
    placed = sorted(item for items in fillings for item in items)
    assert placed == list(range(instance.items))
    for items in fillings:
        load = instance.sizes[list(items)].sum(axis=0, dtype=np.float64)
        assert (load <= instance.capacities[0] * (1 + 1e-6)).all()


def triplets(archive: Path) -> None:
    results = []
    for name, instance in triplet_instances(archive):
        result = solve_triplet(name, instance)
        results.append(result)
        if result.gap or result.bound != result.optimum:
            print(f"{name:20} optimum {result.optimum} bound {result.bound:.0f} "
                  f"hosts {result.hosts} in {result.seconds:.1f} s", flush=True)  # fmt: skip
    gaps = np.asarray([result.gap for result in results])
    seconds = np.asarray([result.seconds for result in results])
    exact = sum(result.bound == result.optimum for result in results)
    print(f"{len(results)} instances: mean gap {gaps.mean():.2%}, worst {gaps.max():.2%}, "
          f"at the optimum {int((gaps == 0).sum())}")  # fmt: skip
    print(f"bound equal to the optimum: {exact}")
    print(f"seconds: mean {seconds.mean():.2f}, worst {seconds.max():.1f}")


@dataclass(frozen=True)
class GrowthResult:
    machines: int
    seed: int
    hosts: int
    bound: float
    seconds: float
    peak_gib: float
    over_capacity: int

    @property
    def line(self) -> str:
        gap = self.hosts / self.bound - 1
        rate = self.seconds / self.machines * 1e3
        return (
            f"{self.machines:7} machines, seed {self.seed}: {self.hosts} hosts, bound "
            f"{self.bound:.0f}, gap {gap:.2%}, {self.seconds:.1f} s ({rate:.2f} ms a machine), "
            f"peak {self.peak_gib:.2f} GiB, hosts over capacity {self.over_capacity}"
        )


def grow(machines: int, seed: int, scarce: str, spare: int) -> GrowthResult:
    problem = replace(packing_demand.problem(machines, seed, scarce), spare=spare)
    packing = solve(problem, seconds=900, seed=seed)
    # before the check, which is no part of the solver
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    over = int((peaks(problem, packing) > 1 + 1e-6).sum())
    hosts = len(packing.hosts)
    return GrowthResult(machines, seed, hosts, packing.bound, packing.seconds, peak, over)


def peaks(problem: Problem, packing: Packing) -> NDArray[np.float64]:
    """(hosts,): the highest share of the usable capacity in any metric and slot."""
    usable = problem.shapes[0].usable.astype(np.float64)[:, None]
    return np.asarray(
        [
            (problem.demand[list(host.machines)].sum(axis=0, dtype=np.float64) / usable).max()
            for host in packing.hosts
        ]
    )


def growth(sizes: list[int], seeds: int, scarce: str, spare: int) -> None:
    # a new process each: the peak of memory is that of one size
    context = multiprocessing.get_context("spawn")
    for machines in sizes:
        for seed in range(seeds):
            with context.Pool(1) as pool:
                print(pool.apply(grow, (machines, seed, scarce, spare)).line, flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.packing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    known = commands.add_parser("triplets", help="solve instances whose optimum is known")
    known.add_argument("archive", type=Path, nargs="?", default=ARCHIVE)
    growing = commands.add_parser("growth", help="solve data centres of several sizes")
    growing.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    growing.add_argument("--seeds", type=int, default=1)
    growing.add_argument("--scarce", choices=sorted(packing_demand.MEMORY), default="balanced")
    growing.add_argument("--spare", type=int, default=0)
    arguments = parser.parse_args(argv)
    if arguments.command == "triplets":
        triplets(arguments.archive)
    else:
        growth(arguments.sizes, arguments.seeds, arguments.scarce, arguments.spare)
    return 0


if __name__ == "__main__":
    sys.exit(main())
