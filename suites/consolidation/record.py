"""Keeps what an experiment found as samples, which reports and the planner read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Protocol

from harness.plugin.fixtures import RecordSample
from harness.results.schema import Better, Parameter
from suites.consolidation.accounting import DISK_KINDS, MEMORY_KINDS, TRAFFIC_KINDS, WindowCost
from suites.consolidation.experiment import Experiment, Point
from suites.consolidation.fit import fit_busy, fit_scalability, says_something
from suites.consolidation.judge import requests_needed
from suites.consolidation.requests import CURVE
from suites.consolidation.search import Knee

MAX_REASON = 200  # characters


class Record(Protocol):
    """Records a value of one point."""

    def __call__(self, metric: str, value: float, unit: str, **parameters: Parameter) -> None: ...


@dataclass(frozen=True)
class PointRecorder:
    """Records the points of one experiment. The batch of a sample is the number of its point."""

    record_sample: RecordSample
    experiment: Experiment

    def _record(
        self,
        metric: str,
        value: float,
        unit: str,
        parameters: Mapping[str, Parameter] | None = None,
        better: Better = "none",
        batch: int = 0,
    ) -> None:
        """An infinite latency, of requests without an answer, has no sample."""
        if not math.isfinite(value):
            return
        deployment = self.experiment.deployment
        tile = f"{deployment.tile.name} v{deployment.tile.version}"
        common: Mapping[str, Parameter] = {"tile": tile, "deploy": deployment.method}
        everything = {**common, **(parameters or {})}
        self.record_sample(f"consolidation.{metric}", value, unit, better, everything, batch=batch)

    def points(self) -> None:
        """All points of the experiment."""
        for number in range(len(self.experiment.points)):
            self.point(number)

    def point(self, number: int) -> None:
        """One point of the experiment."""
        point = self.experiment.points[number]
        about: dict[str, Parameter] = {"tiles": point.tiles}

        def record(metric: str, value: float, unit: str, **more: Parameter) -> None:
            self._record(metric, value, unit, {**about, **more}, batch=number)

        reason = point.verdict.summary[:MAX_REASON]
        record("point", 1, "points", outcome=point.verdict.outcome, reason=reason)
        record("point.start", point.start, "s")
        record("point.end", point.end, "s")
        record("score", point.score, "tiles")
        record("efficiency", point.score / point.tiles, "score/tile")
        record("deploy", point.deploy_seconds, "s")
        self._latencies(record, point)
        for load, window in (("none", point.idle), ("full", point.loaded)):
            self._window(record, point, window, load)
        start, end = point.window
        answered = sum(one.good for one in point.results) / (end - start)
        for name, count in point.loaded.exits.items():
            idle = point.idle.exits.get(name, 0) / point.idle.seconds
            rate = count / point.loaded.seconds - idle
            if answered:
                record(f"exits.{name}", max(0.0, rate) / answered, "exits/request")

    def _latencies(self, record: Record, point: Point) -> None:
        """Of all tiles' guests of a name together, and of the one that is nearest to its limit."""
        members = self.experiment.deployment.tile.guests
        names = [one.name for one in point.results]
        for guest in members:
            own = [index for index, name in enumerate(names) if name == guest.name]
            for percentile, latency in zip(CURVE, point.curves[guest.name], strict=True):
                value = 1000 * latency
                about: dict[str, Parameter] = {"guest": guest.name, "percentile": percentile}
                record("latency", value, "ms", **about)
                if math.isinf(value):
                    record("latency.unanswered", 1, "0 or 1", **about)
            worst = max((point.results[index] for index in own), key=lambda one: one.latency)
            limit = point.results[own[0]].limit
            own_limit: dict[str, Parameter] = {
                "guest": guest.name,
                "percentile": guest.percentile,
            }
            record("latency.worst_guest", 1000 * worst.latency, "ms", **own_limit)
            record("latency.worst_guest.sent", 1000 * worst.sent, "ms", **own_limit)
            record("latency.limit", 1000 * limit, "ms", **own_limit)
            requests = sum(point.results[index].scheduled for index in own)
            good = sum(point.results[index].good for index in own)
            record("requests", requests, "requests", guest=guest.name)
            record("errors", requests - good, "requests", guest=guest.name)

    def _window(self, record: Record, point: Point, window: WindowCost, load: str) -> None:
        """CPU in shares of one CPU, memory in MiB a guest, traffic in B/s a guest, energy."""

        def share(metric: str, seconds: float) -> None:
            record(f"cpu.{metric}", 100 * seconds / window.seconds, "%", load=load)

        share("busy", window.busy)
        share("host_steal", window.host_steal)
        share("guests", sum(window.guest_cpu.values()))
        share("demand", window.demand)
        share("guest_steal", window.steal)
        share("generator", window.generator_cpu)
        for name, part in window.pressure.items():
            record(f"pressure.{name}", 100 * part, "%", load=load)
        for kind, count in zip(DISK_KINDS, window.disks, strict=True):
            record(f"host.{kind}", count / window.seconds, "B/s", load=load)
        if window.joules is not None:
            record("energy", window.joules, "J", load=load)
            record("power", window.joules / window.seconds, "W", load=load)
        for name in {one.name for one in point.results}:
            own = [i for i, one in enumerate(point.results) if one.name == name]
            memory = [window.memory[index] for index in own if index in window.memory]
            cpu = [window.guest_cpu[index] for index in own if index in window.guest_cpu]
            if memory:
                record("memory", sum(memory) / len(memory), "MiB", guest=name, load=load)
                share_each = 100 * sum(cpu) / len(cpu) / window.seconds
                record("cpu.guest", share_each, "%", guest=name, load=load)
            for kind in TRAFFIC_KINDS:
                counts = [window.traffic.get(index, {}).get(kind) for index in own]
                known = [count / window.seconds for count in counts if count is not None]
                if known:
                    record(kind, mean(known), "B/s", guest=name, load=load)
            mapped = [window.mapped[index] for index in own if index in window.mapped]
            for kind in MEMORY_KINDS if mapped else ():
                each = mean(one[kind] for one in mapped)
                record(f"memory.{kind}", each, "MiB", guest=name, load=load)

    def reference(self, points: Sequence[Point]) -> None:
        """The latencies of a tile alone, which nightly runs track: of each guest at its percentile,
        p50, and p99 where there are enough requests."""
        for number, point in enumerate(points):
            for one in point.results:
                known = {one.percentile: one.latency, 50.0: one.p50}
                if one.scheduled >= requests_needed(99):
                    known[99.0] = one.p99
                for percentile, latency in known.items():
                    about: dict[str, Parameter] = {"guest": one.name, "percentile": percentile}
                    self._record("reference", 1000 * latency, "ms", about, "lower", number)

    def knee(self, knee: Knee, tiles: float) -> None:
        """The result of a search. tiles: the knee with its quarter tiles."""
        cpus = self.experiment.deployment.cpus
        cores = self.experiment.host.facts.cores(cpus)
        servers = tiles * len(self.experiment.deployment.tile.guests)
        self._record("knee", tiles, "tiles", better="higher")
        reason: dict[str, Parameter] = {"reason": knee.limited_by[:MAX_REASON]}
        self._record("knee.at_least", float(bool(knee.limited_by)), "0 or 1", reason)
        # verdicts that agree have no range, also with a part of a tile
        lowest = knee.lowest if knee.lowest < knee.tiles else tiles
        self._record("knee.lowest", lowest, "tiles")
        self._record("knee.highest", max(knee.highest, tiles), "tiles")
        self._record("servers_per_host", servers, "servers", better="higher")
        self._record("servers_per_core", servers / cores, "servers/core", better="higher")
        if scores := [point.score for point in self._valid_points(tiles)]:
            self._record("knee.score", median(scores), "tiles", better="higher")
        if shares := [point.loaded.busy_share for point in self._valid_points(knee.tiles)]:
            self._record("knee.utilization", 100 * mean(shares), "%")
        self._models()

    def _valid_points(self, tiles: float) -> list[Point]:
        points = self.experiment.points
        return [point for point in points if point.tiles == tiles and says_something(point)]

    def _models(self) -> None:
        """The fits of the points, where there are enough of them."""
        if fit := fit_busy(self.experiment.points):
            self._record("fit.base", fit.base, "CPUs", better="lower")
            self._record("fit.guest", fit.guest, "CPUs/guest", better="lower")
            self._record("fit.demand", fit.demand, "CPUs/CPU", better="lower")
            self._record("fit.residual", fit.residual, "CPUs")
        if law := fit_scalability(self.experiment.points):
            self._record("scalability.contention", 100 * law.contention, "%")
            self._record("scalability.coherency", 100 * law.coherency, "%")
