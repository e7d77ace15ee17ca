"""One point of a consolidation: so many tiles under load, measured and judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from harness.errors import CommandError, GuestEnded, HarnessError, ProvisionError
from harness.hosts.base import Host
from reports import text
from suites.consolidation import accounting, judge
from suites.consolidation.accounting import WindowCost
from suites.consolidation.deployment import Deployment
from suites.consolidation.generator import Load, LoadGenerator, ServersLateError, Window
from suites.consolidation.histograms import write_log
from suites.consolidation.judge import Conditions, GuestResult, Outcome, Verdict
from suites.consolidation.requests import latency_curves
from suites.consolidation.target import Schedule
from suites.consolidation.tile import Tile


@dataclass(frozen=True)
class Phases:
    """Seconds of each phase. settle: after the deployment. idle: measured without load.

    warm_up: whether servers answer requests before they are deployed. ramp_each: of the ramp for
    each new tile of clones, whose first requests cost more than others.
    """

    settle: float
    idle: float
    warm_up: bool
    schedule: Schedule
    ramp_each: float = 0.0


PHASES = {
    "smoke": Phases(2, 2, False, Schedule(3, 20, 15)),
    "short": Phases(3, 3, True, Schedule(8, 30, 5), ramp_each=8),
    "full": Phases(60, 30, True, Schedule(30, 300, 30)),
}


# between the reference runs, where a limit follows from them
MAX_REFERENCE_SPREAD = {"emulated": 1.0, "hardware": 0.1}
REFERENCE_REPEATS = 2

_LEAD = 2.0  # seconds in which a reading starts on a slow host, before its moment


@dataclass(frozen=True)
class Point:
    """A measured point.

    tiles: their number; one with a part of the load counts as that part. curves: latencies of all
    guests of a name at requests.CURVE, s. window: its start and end, s since the epoch. idle: the
    cost of the phase without load. loaded: the cost of the window.
    deploy_seconds: of the guests that this point added. ends: how guests ended, by index.
    """

    tiles: float
    guests: int
    verdict: Verdict
    results: list[GuestResult]
    curves: Mapping[str, Sequence[float]]
    window: tuple[float, float]
    start: float
    end: float
    idle: WindowCost
    loaded: WindowCost
    generator_cpu: float
    deploy_seconds: float
    ends: Mapping[int, str]

    @property
    def conditions(self) -> Conditions:
        """See judge.judge_point()."""
        loaded = self.loaded
        return Conditions(
            generator_cpu=self.generator_cpu,
            swapped=loaded.swapped,
            host_steal=loaded.host_steal / loaded.seconds / loaded.host_cpus,
            unread=loaded.unread,
        )

    @property
    def score(self) -> float:
        """See judge.tile_score()."""
        return judge.tile_score(self.results)


@dataclass
class Experiment:
    """Measures points of one deployment, whose limits are frozen after the reference runs.

    seed: of the next load's arrivals. folder: for the latencies of each point. limits: seconds by
    the guest's name; empty while the reference is measured. reference: the points that they follow
    from. progress: prints a line for each point.
    """

    deployment: Deployment
    generator: LoadGenerator
    phases: Phases
    seed: int
    progress: Callable[[str], object]
    folder: Path
    limits: dict[str, float] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    reference: list[Point] = field(default_factory=list)

    @property
    def host(self) -> Host:
        return self.generator.guest.hypervisor.host

    def measure(self, tiles: int, *, fresh: bool = False, extra: float = 0.0) -> Outcome:
        """Deploy, settle, ramp, measure and drain; the point is added to `points`.

        fresh: end the running tiles first. extra: one more tile has this share of a tile's load.
        A guest that does not become ready fails the number, of which there is no point then, and so
        do servers that do not start or accept no connections; with one tile alone this raises their
        ProvisionError, GuestEnded, CommandError or ServersLateError.
        """
        deployment = self.deployment
        if fresh or deployment.ends:
            deployment.clear()
        deployment.shrink_to(tiles)
        deployment.prepare()
        start, start_time, before = time.monotonic(), time.time(), len(deployment.members)
        try:
            deployment.grow_to(tiles, extra)
        except (ProvisionError, GuestEnded, CommandError, ServersLateError) as error:
            return self._fail(tiles + extra, "a guest was not deployed", error)
        deployed = time.monotonic() - start
        added = (len(deployment.members) - before) / len(deployment.tile.guests)
        ramp = self.phases.ramp_each * added if deployment.method == "clone" else 0.0
        try:
            point = self._run(deployed, start_time, ramp)
        except ServersLateError as error:
            return self._fail(tiles + extra, "the servers were late", error)
        self.points.append(point)
        number, reasons = text.count(point.tiles, "tile"), point.verdict.summary
        because = f" ({reasons})" if reasons else ""
        self.progress(f"{number}: {point.verdict.outcome}{because}")
        return point.verdict.outcome

    def _fail(self, tiles: float, reason: str, error: HarnessError) -> Outcome:
        """End the guests of a number without a point."""
        self.deployment.clear()
        if tiles <= 1:
            raise error
        self.progress(f"{text.count(tiles, 'tile')}: fail ({reason}: {error.cause})")
        return "fail"

    def _run(self, deployed: float, start_time: float, ramp: float) -> Point:
        time.sleep(self.phases.settle)
        members = self.deployment.members
        idle = self.cost_of(self.phases.idle)
        cost: list[WindowCost] = []
        load = self.load(lambda window: cost.append(self.cost_in(window)), ramp)
        self.generator.observe(
            [one.target for one in members], cost[0].generator_cpu / cost[0].seconds
        )
        ends = dict(self.deployment.ends)
        guests = [(one.role, one.tile) for one in members]
        names = [one.role.name for one in members]
        results = judge.window_results(guests, load.requests, self.limits, ends, load.notes)
        path = self.folder / f"{len(self.points):03d}-{self.deployment.tiles:g}-tiles.hlog"
        write_log(path, load.requests, names, load.start, load.end)
        point = Point(
            tiles=self.deployment.tiles,
            guests=len(members),
            verdict=Verdict("invalid"),
            results=results,
            curves=latency_curves(load.requests, names),
            window=(load.start, load.end),
            start=start_time,
            end=time.time(),
            idle=idle,
            loaded=cost[0],
            generator_cpu=self._generator_cpu(load, cost[0]),
            deploy_seconds=deployed,
            ends=ends,
        )
        return self._judge(point)

    def _judge(self, point: Point) -> Point:
        """The point with its verdict."""
        verdict = judge.judge_point(point.results, self.limits, point.conditions)
        return replace(point, verdict=verdict)

    def _generator_cpu(self, load: Load, cost: WindowCost) -> float:
        """The share of its busiest CPU, with all that runs there."""
        return max(load.cpu_share, cost.generator_busy / cost.seconds)

    def load(
        self, during: Callable[[Window], object] = lambda window: None, ramp: float = 0.0
    ) -> Load:
        """Put all guests under load. `during` is called when its ramp begins.

        ramp: seconds, at least; see Phases.
        """
        members = self.deployment.members
        # An answer that is within its limit still counts after the window.
        wanted = self.phases.schedule
        limits = [
            (one.target.protocol, self.limits.get(one.role.name, one.role.limit)) for one in members
        ]
        drain = max(wanted.drain, *(limit for _, limit in limits))
        databases = max(wanted.drain, *(limit for name, limit in limits if name == "pgbench"), 0.0)
        ramp = max(wanted.ramp, ramp)
        schedule = replace(wanted, ramp=ramp, drain=drain, database_drain=databases)
        run = self.generator.start([one.target for one in members], schedule, self.seed)
        self.seed += 1000
        try:
            during(run.wait_for_start())
        except BaseException:
            run.abort()
            raise
        return run.finish()

    def cost_of(self, seconds: float) -> WindowCost:
        """What the host spends on the guests that run, in the next seconds."""
        start = time.monotonic()
        before = self._read()
        time.sleep(max(0.0, start + seconds - time.monotonic()))
        return self._cost(before, self._read(end=True))

    def cost_in(self, window: Window) -> WindowCost:
        """What the host spends on the guests that run, in the window of a load. The host waits for
        its moments, so a reading starts before them."""
        window.sleep_until(-_LEAD)
        before = self._read(at=window.start)
        window.sleep_until(window.seconds - _LEAD)
        return self._cost(before, self._read(at=window.end, end=True))

    def _read(self, *, end: bool = False, at: float = 0.0) -> accounting.Reading:
        guests = [one.guest for one in self.deployment.members]
        return accounting.read(self.host, guests, self.generator.guest, end=end, at=at)

    def _cost(self, before: accounting.Reading, after: accounting.Reading) -> WindowCost:
        alive = set(range(len(self.deployment.members))) - self.deployment.ends.keys()
        cpus, own_cpus = self.deployment.cpus, self.generator.cpus
        return accounting.cost(before, after, cpus, alive, own_cpus)

    def measure_reference(self, runs: int) -> str:
        """Measure one tile alone and freeze the limits. Returns why it is no reference, or "".

        Clones are deployed anew for each run. Booted guests are not, as a boot takes long. Up to
        REFERENCE_REPEATS more runs follow those that are no reference, such as ones that differ.
        The last ones count then, and those before them become invalid.
        """
        problem = ""
        for number in range(runs + REFERENCE_REPEATS):
            self.measure(1, fresh=self.deployment.method == "clone")
            if number < runs - 1:
                continue
            problem = self._freeze_limits(runs)
            if not problem:
                break
            self.limits = {}
            self.progress(f"no reference yet: {problem}")
        return problem

    def _freeze_limits(self, runs: int) -> str:
        """Make the last points the reference. Returns why they are none, or ""."""
        points = self.points[-runs:]
        references = [point.results for point in points]
        guests = [one.role for one in self.deployment.members]
        max_spread = MAX_REFERENCE_SPREAD["emulated" if self.host.emulated else "hardware"]
        if problem := judge.reference_problem(guests, references, max_spread):
            return problem
        self.limits = judge.freeze_limits(guests, references)
        judged = [self._judge(with_limits(point, self.limits)) for point in points]
        for number, point in enumerate(judged, 1):
            if point.verdict.outcome != "pass":
                reason = point.verdict.reasons[0]
                return f"reference run {number} is {point.verdict.outcome}: {reason}"
        earlier = Verdict("invalid", ("later runs are the reference",))
        self.points[:] = [replace(point, verdict=earlier) for point in self.points[:-runs]] + judged
        self.reference = judged
        return ""


def with_limits(point: Point, limits: Mapping[str, float]) -> Point:
    """A point that was measured without limits, with them."""
    results = [judge.with_problem(replace(one, limit=limits[one.name])) for one in point.results]
    return replace(point, results=results)


class MakeExperiment(Protocol):
    """The type of the fixture make_experiment."""

    def __call__(
        self, phases: str, own_tile: Tile | None = None, /, *, mergeable: bool = False
    ) -> Experiment:
        """An experiment with the phases of this name. own_tile: instead of the session's.
        mergeable: see Deployment."""
