"""Compares two hypervisors on one host by pairs of measurements in alternating order.

The order is A B, B A, A B, ..., so that drift affects both alike. The figure is the ratio within
each pair, with its spread over the pairs. A benchmark warms both up first:

    with pairs.guest_factories(guest_factory, hypervisor) as factories:
        samples = pairs.PairedSamples()
        for pair, name in pairs.alternating_pairs(factories, 10):
            samples.add("boot.init", name, boot_seconds(factories[name]))
    print("\n".join(samples.report_lines("boot.init", "s")))
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator

from harness.guest.factory import GuestFactory
from harness.hypervisors import registry
from harness.hypervisors.base import Hypervisor
from harness.plugin.ordering import alternate
from harness.results.statistics import CONFIDENCE, bootstrap_interval

SUBJECT, REFERENCE = "kvm", "qemu"


@contextlib.contextmanager
def guest_factories(
    factory: GuestFactory, hypervisor: Hypervisor
) -> Iterator[dict[str, GuestFactory]]:
    """A guest factory for each hypervisor, on the session's host, during the block."""
    with contextlib.ExitStack() as stack:
        factories: dict[str, GuestFactory] = {}
        for name in (SUBJECT, REFERENCE):
            target = registry.load(name)(hypervisor.host, lambda text: None)
            stack.callback(target.close)
            prefix = f"{factory.prefix}-{name}"
            factories[name] = dataclasses.replace(factory, hypervisor=target, prefix=prefix)
        yield factories


def alternating_pairs(names: Iterable[str], count: int) -> Iterator[tuple[int, str]]:
    """(number of the pair, name) of each measurement, in the order A B, B A, A B, ..."""
    order = list(names)
    for pair in range(count):
        for name in alternate(order, pair):
            yield pair, name


class PairedSamples:
    """Measured values by metric and hypervisor, in the order of the pairs."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, metric: str, hypervisor: str, value: float) -> None:
        self.values[metric][hypervisor].append(value)

    def ratios(self, metric: str) -> list[float]:
        """SUBJECT / REFERENCE of each pair; empty if a REFERENCE value is 0."""
        subject, reference = self.values[metric][SUBJECT], self.values[metric][REFERENCE]
        if not all(reference):
            return []
        return [a / b for a, b in zip(subject, reference, strict=True)]

    def report_lines(self, metric: str, unit: str) -> list[str]:
        """Median and spread of a metric for each hypervisor, and of the ratio with its interval."""
        values = self.values[metric]
        rows = [
            format_line(f"{metric} {name}", values[name], unit) for name in (SUBJECT, REFERENCE)
        ]
        if ratios := self.ratios(metric):
            ratio = format_line(f"{metric} {SUBJECT} / {REFERENCE}", ratios, "")
            low, high = bootstrap_interval(ratios) or (ratios[0], ratios[0])
            rows.append(f"{ratio}  {CONFIDENCE:.0%} {low:.3f} to {high:.3f}")
        return rows


def format_line(name: str, values: list[float], unit: str) -> str:
    """Median, minimum and maximum in one line."""
    low, median, high = min(values), statistics.median(values), max(values)
    return f"{name:36} median {median:10.3f} {unit:8} min {low:.3f}  max {high:.3f}".rstrip()
