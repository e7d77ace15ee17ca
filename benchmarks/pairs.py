"""Two hypervisors in turn on one host, so that what drifts with time hits both alike.

A benchmark makes the sides, warms each up, and measures in the order A B, B A, A B, ...; neighbours
are a pair, and the figure is the ratio within each pair, with its spread over the pairs:

    with pairs.sides(guest_factory, hypervisor) as factories:
        found = pairs.Found()
        for pair, name in pairs.in_turn(factories, 10):
            found.add("boot.init", name, seconds_of(factories[name]))
    print("\n".join(found.lines("boot.init", "s")))

Nothing is asserted of the figures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator

from harness.guest.factory import GuestFactory
from harness.hypervisors.base import Hypervisor
from harness.hypervisors.kvm import KvmHypervisor
from harness.hypervisors.qemu import QemuHypervisor
from harness.hypervisors.supervised import SupervisedHypervisor
from harness.results.statistics import CONFIDENCE, interval

OURS, THEIRS = "kvm", "qemu"


@contextlib.contextmanager
def sides(factory: GuestFactory, hypervisor: Hypervisor) -> Iterator[dict[str, GuestFactory]]:
    """A factory of guests for each side, on the session's host, as long as the block lasts."""
    with contextlib.ExitStack() as stack:
        made: dict[str, GuestFactory] = {}
        for kind in (KvmHypervisor, QemuHypervisor):
            side = kind(hypervisor.host, lambda text: None)
            stack.callback(side.close)
            prefix = f"{factory.prefix}-{side.name}"
            made[side.name] = dataclasses.replace(factory, hypervisor=side, prefix=prefix)
        yield made


def of(factory: GuestFactory) -> SupervisedHypervisor:
    """The side's hypervisor."""
    assert isinstance(factory.hypervisor, SupervisedHypervisor)
    return factory.hypervisor


def in_turn(names: Iterable[str], count: int) -> Iterator[tuple[int, str]]:
    """The number of each pair and whose turn it is: A B, B A, A B, ..."""
    order = list(names)
    for pair in range(count):
        for name in order if pair % 2 == 0 else order[::-1]:
            yield pair, name


class Found:
    """What was measured, by metric and side, in the order of the pairs."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, metric: str, side: str, value: float) -> None:
        self.values[metric][side].append(value)

    def ratios(self, metric: str) -> list[float]:
        """Ours by theirs, pair by pair; empty where a side's value is 0."""
        ours, theirs = self.values[metric][OURS], self.values[metric][THEIRS]
        return [a / b for a, b in zip(ours, theirs, strict=True)] if all(theirs) else []

    def lines(self, metric: str, unit: str) -> list[str]:
        """Both sides' medians and spreads of a metric; the ratio's, with an interval for it."""
        values = self.values[metric]
        rows = [line(f"{metric} {name}", values[name], unit) for name in (OURS, THEIRS)]
        if ratios := self.ratios(metric):
            ratio = line(f"{metric} {OURS} / {THEIRS}", ratios, "")
            low, high = interval(ratios) or (ratios[0], ratios[0])
            rows.append(f"{ratio}  {CONFIDENCE:.0%} {low:.3f} to {high:.3f}")
        return rows


def line(name: str, values: list[float], unit: str) -> str:
    """Median and spread, to be printed."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{name:36} median {middle:10.3f} {unit:8} min {low:.3f}  max {high:.3f}".rstrip()
