"""Prometheus: the JSON that /api/v1/query_range answers, of libvirt_exporter and node_exporter.

A libvirt domain is a machine. An instance of node_exporter is a machine, too, unless it runs on a
host of these domains: then it describes the host. Counters become rates. The metrics of one machine
may be in several files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.planner.inventory import Host, Machine
from harness.planner.sources.base import ImportContext, Samples
from harness.planner.sources.counters import (
    SeriesSums,
    Times,
    Values,
    rates,
    without_repeated_point,
)
from harness.planner.sources.prometheus_json import read_series
from harness.planner.sources.prometheus_metrics import (
    BUSY_MODES,
    DOMAIN_LABELS,
    METRICS,
    SHUT_OFF,
    Labels,
    Metric,
    counts,
)
from harness.planner.sources.source_file import SourceFile

# Columns that are sums of metrics, which may be in different files.
_SUMMED = ("cpu_cores", "net_mib_s")
_SIZES = ("vcpus", "memory_size", "state")
_PORT = re.compile(r":\d+$")
_METRIC_NUMBER = {name: number for number, name in enumerate(METRICS)}


@dataclass(frozen=True)
class _Series:
    """A series that counts, of a known metric. machine: a domain or an instance."""

    name: str
    metric: Metric
    labels: Labels
    machine: str
    times: Times
    values: Values


@dataclass
class _Sizes:
    """What the first pass over all files finds, by machine."""

    vcpus: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    state: dict[str, float] = field(default_factory=dict)
    host: dict[str, str] = field(default_factory=dict)  # of domains
    cpus: dict[str, set[str]] = field(default_factory=dict)  # of instances
    instances: dict[str, None] = field(default_factory=dict)
    cpu_metric: dict[str, str] = field(default_factory=dict)  # the first one in METRICS
    resident: set[str] = field(default_factory=set)  # domains whose resident memory is known
    busy: set[str] = field(default_factory=set)  # instances with more modes than idle

    @property
    def hosts(self) -> set[str]:
        """Instances on which domains run."""
        return set(self.host.values())


class Prometheus:
    name = "prometheus"

    def __init__(self) -> None:
        self._sizes = _Sizes()

    def recognizes(self, file: SourceFile) -> bool:
        return file.kind == "json" and b'"resultType"' in file.head

    def read_inventory(self, files: Sequence[SourceFile], context: ImportContext) -> None:
        sizes = self._sizes = _Sizes()
        for file in files:
            for series in _known_series(file, context):
                context.count(file, len(series.times))
                _note_sizes(series, sizes)
        for instance in sizes.instances:
            cpus, memory = len(sizes.cpus.get(instance, ())) or None, sizes.memory.get(instance)
            if instance in sizes.hosts:
                context.inventory.add_host(Host(instance, threads=cpus, memory_mib=memory))
            else:
                context.inventory.add_machine(Machine(instance, vcpus=cpus, memory_mib=memory))
        for name, host in sizes.host.items():
            context.inventory.add_machine(
                Machine(
                    name,
                    vcpus=sizes.vcpus.get(name) or None,
                    memory_mib=sizes.memory.get(name),
                    host=host or None,
                    powered_on=sizes.state[name] != SHUT_OFF if name in sizes.state else None,
                )
            )

    def read_samples(
        self, files: Sequence[SourceFile], context: ImportContext
    ) -> Iterator[Samples]:
        over_files = SeriesSums()
        for file in files:
            # Memory is bounded: only columns that are sums over files wait for the other files.
            in_file = SeriesSums()
            for series in _known_series(file, None):
                if series.metric.exporter == "libvirt" or series.machine not in self._sizes.hosts:
                    _add(series, self._sizes, over_files, in_file, context)
            yield from _samples(file, in_file)
        if files:
            yield from _samples(files[-1], over_files)


def _samples(file: SourceFile, sums: SeriesSums) -> Iterator[Samples]:
    for machine, column, times, values in sums.take():
        yield Samples.of_machine(file, machine, times, {column: values})


def _known_series(file: SourceFile, context: ImportContext | None) -> Iterator[_Series]:
    """The series of metrics in METRICS. context: where to tell about the others."""
    known = False
    unknown: dict[str, None] = {}
    for labels, times, values in read_series(file):
        name = labels["__name__"]
        metric = METRICS.get(name)
        if metric is None:
            unknown[name] = None
            continue
        known = True
        if context is not None and metric.counter:
            context.detect(file, f"{name} is a counter. Its rate counts.")
        if counts(metric, labels):
            machine = _machine(file, name, metric, labels)
            yield _Series(name, metric, labels, machine, times, values)
    if not known:
        raise file.error(
            f"has no known metric; it has {', '.join(list(unknown)[:3]) or 'no series'}",
            "export metrics of libvirt_exporter or node_exporter, such as "
            "libvirt_domain_info_cpu_time_seconds_total",
        )
    if context is not None and unknown:
        context.detect(file, f"Metrics that are not used: {', '.join(list(unknown)[:5])}.")


def _machine(file: SourceFile, name: str, metric: Metric, labels: Labels) -> str:
    wanted = DOMAIN_LABELS if metric.exporter == "libvirt" else ("instance",)
    for label in wanted:
        if value := labels.get(label):
            return value if metric.exporter == "libvirt" else _PORT.sub("", value)
    raise file.error(
        f"metric {name} has no label {wanted[0]!r}", f"keep the label {wanted[0]} in the query"
    )


def _note_sizes(series: _Series, sizes: _Sizes) -> None:
    machine, target, values = series.machine, series.metric.target, series.values
    finite = values[np.isfinite(values)]
    if series.metric.exporter == "libvirt":
        host = _PORT.sub("", series.labels.get("instance", ""))
        sizes.host[machine] = host or sizes.host.get(machine, "")
    else:
        sizes.instances[machine] = None
    if target == "cpu_cores":
        first = sizes.cpu_metric.setdefault(machine, series.name)
        if _METRIC_NUMBER[series.name] < _METRIC_NUMBER[first]:
            sizes.cpu_metric[machine] = series.name
        if cpu := series.labels.get("cpu"):
            sizes.cpus.setdefault(machine, set()).add(cpu)
        if series.labels.get("mode") in BUSY_MODES:
            sizes.busy.add(machine)
    elif target == "memory_resident":
        sizes.resident.add(machine)
    elif target == "state" and len(finite):
        sizes.state[machine] = float(finite[-1])
    elif target in ("vcpus", "memory_size") and len(finite):
        table = sizes.vcpus if target == "vcpus" else sizes.memory
        largest = float(finite.max()) * series.metric.scale
        table[machine] = max(table.get(machine, 0.0), largest)


def _add(
    series: _Series,
    sizes: _Sizes,
    over_files: SeriesSums,
    in_file: SeriesSums,
    context: ImportContext,
) -> None:
    """Add a series to the column that it is part of, if any."""
    machine, metric = series.machine, series.metric
    column, times, values = metric.target, series.times, series.values
    if metric.counter:
        if column == "cpu_cores":
            times, values = without_repeated_point(times, values)
        times, values, resets = rates(times, values)
        context.findings.add("counter-reset", resets, [machine])
    values = values * metric.scale
    if column == "cpu_cores":
        if series.name != sizes.cpu_metric[machine]:
            return  # another metric of the same CPU time
        if metric.exporter == "node":
            mode = series.labels.get("mode", "")
            if machine not in sizes.busy and mode == "idle":
                values = 1 - values
            elif mode not in BUSY_MODES:
                return
    elif column == "memory_available":
        if machine not in sizes.memory:
            return
        column, values = "memory_mib", sizes.memory[machine] - values
    elif column == "memory_resident":
        column = "memory_mib"
    elif column in _SIZES or (column == "memory_mib" and machine in sizes.resident):
        return
    sums = over_files if column in _SUMMED else in_file
    sums.add(machine, column, series.name, times, np.clip(values, 0, None))
