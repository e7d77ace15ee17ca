"""Synthetic searches for tests. No figure here was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from harness.results import RunWriter
from harness.results.schema import Parameter, Sample
from tests.results.synthetic import START, Synthetic, facts

GUESTS = {"web": 95.0, "batch": 100.0}
STANDARD = {"web": 99.0, "cache": 99.0, "oltp": 95.0, "batch": 100.0, "idle": 100.0}
LIMIT = 100.0  # ms
CURVE = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100)
POINT_SECONDS = 30
NEIGHBOURS = {"cpu": 1.02, "memory": 1.3, "disk": 1.8, "network": 2.6, "exits": 14.0}


@dataclass(frozen=True)
class SearchShape:
    """What a synthetic search finds.

    knee: tiles that pass. tiles: of each point. guests: with their percentiles. demand: CPUs of the
    host for one CPU of work. exits: a request; 0 for none. unanswered: numbers of points whose slow
    requests have no answer. invalid: numbers of points. dies: a guest ends in the last one.
    watts: of a tile under load; 0 for none.
    """

    knee: float
    tiles: Sequence[float] = (1.0, 1.0, 1.0, 2.0, 3.0, 4.0)
    demand: float = 1.4
    exits: float = 4.0
    unanswered: Sequence[int] = ()
    guests: Mapping[str, float] = field(default_factory=lambda: GUESTS)
    invalid: Sequence[int] = ()
    dies: bool = False
    clones: bool = True
    ended_early: bool = False
    watts: float = 0.0


@dataclass(frozen=True)
class SearchSamples:
    """Makes the samples of one search, whose first point starts at `start`.

    old: without the samples that an older version of the suite did not record.
    """

    template: Sample
    shape: SearchShape
    start: datetime
    old: bool = False
    tick: int = 1  # seconds
    made: list[Sample] = field(default_factory=list)

    def add(
        self, metric: str, value: float, unit: str, batch: int = 0, **parameters: Parameter
    ) -> None:
        deploy = "clone" if self.shape.clones else "boot"
        about: dict[str, Parameter] = {"tile": "standard v1", "deploy": deploy, **parameters}
        self.made.append(
            replace(
                self.template,
                metric=f"consolidation.{metric}",
                value=value,
                unit=unit,
                better="none",
                parameters=about,
                batch=batch,
                test="test_knee.py::test_knee",
            )
        )

    def everything(self) -> list[Sample]:
        for batch, tiles in enumerate(self.shape.tiles):
            self._point(batch, tiles)
            self._latencies(batch, tiles)
            self._resources(batch, tiles)
        self._knee()
        return [*self.made, *([] if self.old else self._utilization())]

    def _begin(self, batch: int) -> datetime:
        return self.start + timedelta(seconds=(POINT_SECONDS + 2) * batch)

    def _outcome(self, batch: int, tiles: float) -> str:
        if batch in self.shape.invalid:
            return "invalid"
        return "pass" if tiles <= self.shape.knee else "fail"

    def _point(self, batch: int, tiles: float) -> None:
        outcome = self._outcome(batch, tiles)
        more: dict[str, Parameter] = {"tiles": tiles}
        if not self.old:
            begin = self._begin(batch).timestamp()
            self.add("point.start", begin, "s", batch, **more)
            self.add("point.end", begin + POINT_SECONDS, "s", batch, **more)
            reason = "" if outcome == "pass" else "web of tile 0: p95 0.12 s, limit 0.1 s"
            self.add("point", 1, "points", batch, outcome=outcome, reason=reason, **more)
        else:
            self.add("point", 1, "points", batch, outcome=outcome, **more)
        self.add("score", tiles * 0.99, "tiles", batch, **more)
        self.add("deploy", 0.3 * tiles, "s", batch, **more)
        if self.shape.exits:
            self.add("exits.exits", self.shape.exits, "exits/request", batch, **more)

    def _latencies(self, batch: int, tiles: float) -> None:
        for guest, percentile in self.shape.guests.items():
            about: dict[str, Parameter] = {"guest": guest, "tiles": tiles}
            for p in CURVE:
                if p > 90 and batch in self.shape.unanswered:
                    self.add("latency.unanswered", 1, "1", batch, percentile=p, **about)
                else:
                    self.add("latency", 0.3 * tiles * p, "ms", batch, percentile=p, **about)
            if batch not in self.shape.unanswered:
                worst = 31 * tiles
                self.add("latency.worst_guest", worst, "ms", batch, percentile=percentile, **about)
            self.add("latency.limit", LIMIT, "ms", batch, percentile=percentile, **about)

    def _resources(self, batch: int, tiles: float) -> None:
        about: dict[str, Parameter] = {"tiles": tiles, "load": "full"}
        for guest in self.shape.guests:
            self.add("memory", 20.0, "MiB", batch, guest=guest, **about)
            self.add("cpu.guest", 5.0, "%", batch, guest=guest, **about)
            if not self.old:
                for name, value in (("private", 14.0), ("shared", 5.0), ("merged", 1.5 * tiles)):
                    self.add(f"memory.{name}", value, "MiB", batch, guest=guest, **about)
        for name, value in (("busy", 30.0), ("guests", 25.0), ("demand", 10.0)):
            self.add(f"cpu.{name}", value * tiles, "%", batch, **about)
        if self.shape.watts:
            self.add("power", 30 + self.shape.watts * tiles, "W", batch, **about)
            self.add("power", 30.0, "W", batch, tiles=tiles, load="none")
        if not self.old:
            self.add("pressure.cpu", min(99.0, 12 * tiles), "%", batch, **about)

    def _knee(self) -> None:
        tiles = self.shape.knee + 0.25
        for metric, value, unit in (
            ("knee", tiles, "tiles"),
            ("knee.lowest", self.shape.knee, "tiles"),
            ("knee.highest", tiles, "tiles"),
            ("knee.at_least", float(self.shape.ended_early), "0 or 1"),
            ("servers_per_host", len(self.shape.guests) * tiles, "servers"),
            ("servers_per_core", len(self.shape.guests) * tiles, "servers/core"),
            ("knee.utilization", 91.0, "%"),
            ("fit.base", 0.05, "CPUs"),
            ("fit.guest", 0.02, "CPUs/guest"),
            ("fit.demand", self.shape.demand, "CPUs/CPU"),
        ):
            self.add(metric, value, unit)
        if not self.old:
            self.add("scalability.contention", 0.4, "%")
            self.add("scalability.coherency", 0.01, "%")

    def _utilization(self) -> Iterator[Sample]:
        """A tick each second of host and guests. Each point has guests of its own."""
        seconds = (POINT_SECONDS + 2) * len(self.shape.tiles)
        for tick in range(0, seconds, self.tick):
            time = self.start + timedelta(seconds=tick + 0.4)
            batch, within = divmod(tick, POINT_SECONDS + 2)
            tiles = self.shape.tiles[batch]
            busy = min(95.0, 5 + 20 * tiles) if 5 < within < POINT_SECONDS else 4.0
            parts = {"guest": 0.7 * busy, "user": 0.1 * busy, "system": 0.2 * busy}
            host = {f"cpu.{name}": value for name, value in parts.items()}
            host |= {"cpu.idle": 100 - busy, "pressure.cpu": busy / 2}
            for name, value in host.items():
                yield self._tick(f"host.{name}", value, time, tick)
            running = [("generator", 0)]
            if 2 < within < POINT_SECONDS:
                running += [
                    (f"{guest}-{number + 1}", batch)
                    for number in range(int(tiles))
                    for guest in self.shape.guests
                ]
            if 2 < within < 6:
                running.append(("web-template", batch))
            if self.shape.dies and batch == len(self.shape.tiles) - 1 and within > 20:
                running = [one for one in running if one[0] != "web-1"]
            for guest in running:
                yield self._tick("guest.cpu.user", 9.0, time, tick, guest)

    def _tick(
        self,
        metric: str,
        value: float,
        time: datetime,
        batch: int,
        guest: tuple[str, int] | None = None,
    ) -> Sample:
        """guest: its label and boot; None for the host."""
        label, boot = guest or ("", 0)
        return replace(
            self.template,
            metric=metric,
            value=value,
            unit="%",
            better="none",
            parameters={"guest": label} if guest else {},
            hypervisor=self.template.hypervisor if guest else "native",
            suite="",
            test="",
            item="",
            time=time.astimezone(UTC),
            boot=boot,
            batch=batch,
        )


def density_samples(template: Sample) -> Iterator[Sample]:
    for state, merged in (("off", 0.0), ("on", 3.5)):
        about: dict[str, Parameter] = {"guests": 50, "ksm": state, "seconds": 60}
        metric, unit = "consolidation.density.merged_each", "MiB/guest"
        yield replace(template, metric=metric, value=merged, unit=unit, parameters=about)


def neighbour_samples(template: Sample) -> Iterator[Sample]:
    for victim, factor in (("web", 1.0), ("cache", 0.8)):
        for aggressor, ratio in NEIGHBOURS.items():
            about: dict[str, Parameter] = {"victim": victim, "aggressor": aggressor}
            metric, value = "consolidation.neighbour.ratio", ratio * factor
            if victim == "cache" and aggressor == "exits":
                metric, value = f"{metric}.unanswered", 1.0
            yield replace(template, metric=metric, value=value, unit="ratio", parameters=about)


def write_searches(
    store: Path,
    shapes: Mapping[str, SearchShape],
    *,
    old: bool = False,
    tick: int = 1,
) -> Path:
    """The file of a run with a search on each hypervisor, one after the other."""
    writer = RunWriter(store, facts(hypervisor=", ".join(shapes)))
    start = START
    for hypervisor, shape in shapes.items():
        (template, *_) = Synthetic(writer.run, boots=1, hypervisor=hypervisor).exits()
        for sample in SearchSamples(template, shape, start, old, tick).everything():
            writer.add(sample)
        if hypervisor != "native" and not old:
            for sample in (*neighbour_samples(template), *density_samples(template)):
                writer.add(sample)
        start += timedelta(seconds=(POINT_SECONDS + 2) * len(shape.tiles) + 20)
    return writer.close()
