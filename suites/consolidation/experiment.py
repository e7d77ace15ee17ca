"""One point of a consolidation: so many tiles under load, measured and judged."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import pandas as pd

from harness.hosts.base import Host
from suites.consolidation import accounting, judge
from suites.consolidation.accounting import WindowCost
from suites.consolidation.deployment import Deployment
from suites.consolidation.generator import Load, LoadGenerator, Schedule
from suites.consolidation.judge import GuestResult, Outcome, Verdict
from suites.consolidation.requests import in_window
from suites.consolidation.tile import Tile


@dataclass(frozen=True)
class Phases:
    """Seconds of each phase. settle: after the deployment. idle: measured without load.

    warm_up: whether servers answer requests before they are deployed.
    """

    settle: float
    idle: float
    warm_up: bool
    schedule: Schedule


PHASES = {
    "smoke": Phases(2, 2, False, Schedule(3, 20, 15)),
    "short": Phases(10, 5, True, Schedule(5, 60, 10)),
    "full": Phases(60, 30, True, Schedule(30, 300, 30)),
}


@dataclass(frozen=True)
class Point:
    """A measured point.

    tiles: their number; one with a part of the load counts as that part. requests: of the window.
    idle: the cost of the phase without load. loaded: the cost of the window.
    deploy_seconds: of the guests that this point added. ends: how guests ended, by index.
    """

    tiles: float
    guests: int
    verdict: Verdict
    results: list[GuestResult]
    requests: pd.DataFrame
    idle: WindowCost
    loaded: WindowCost
    deploy_seconds: float
    ends: Mapping[int, str]

    @property
    def score(self) -> float:
        """See judge.tile_score()."""
        return judge.tile_score(self.results)


@dataclass
class Experiment:
    """Measures points of one deployment, whose limits are frozen after the reference runs.

    seed: of the next load's arrivals. limits: seconds by the guest's name; empty while the
    reference is measured. progress: prints a line for each point.
    """

    deployment: Deployment
    generator: LoadGenerator
    phases: Phases
    seed: int
    progress: Callable[[str], object]
    limits: dict[str, float] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)

    @property
    def host(self) -> Host:
        return self.generator.guest.hypervisor.host

    def measure(self, tiles: int, *, fresh: bool = False, extra: float = 0.0) -> Outcome:
        """Deploy, settle, ramp, measure and drain; the point is added to `points`.

        fresh: end the running tiles first. extra: one more tile has this share of a tile's load.
        Raises ProvisionError or GuestEnded when a guest ends while it is deployed.
        """
        deployment = self.deployment
        if fresh or deployment.ends or deployment.tiles > tiles:
            deployment.clear()
        start = time.monotonic()
        deployment.grow_to(tiles, extra)
        deployed = time.monotonic() - start
        point = self._run(deployed)
        self.points.append(point)
        reasons = "; ".join(point.verdict.reasons)
        self.progress(
            f"{point.tiles:g} tiles: {point.verdict.outcome}" + (f" ({reasons})" if reasons else "")
        )
        return point.verdict.outcome

    def _run(self, deployed: float) -> Point:
        time.sleep(self.phases.settle)
        idle = self.cost_of(self.phases.idle)
        cost: list[WindowCost] = []
        load = self.load(lambda seconds: cost.append(self.cost_of(seconds)))
        members = self.deployment.members
        ends = dict(self.deployment.ends)
        guests = [(one.role, one.tile) for one in members]
        window = (load.start, load.end)
        results = judge.window_results(guests, load.requests, window, self.limits, ends, load.notes)
        measured = in_window(load.requests, *window)
        verdict = self._judge(results, measured, cost[0])
        return Point(
            tiles=self.deployment.tiles,
            guests=len(members),
            verdict=verdict,
            results=results,
            requests=measured,
            idle=idle,
            loaded=cost[0],
            deploy_seconds=deployed,
            ends=ends,
        )

    def load(self, during: Callable[[float], None]) -> Load:
        """Put all guests under load. `during` has the seconds of the window, and takes as long."""
        members = self.deployment.members
        # An answer that is within its limit still counts after the window.
        drain = max(self.phases.schedule.drain, *(one.role.limit for one in members))
        schedule = replace(self.phases.schedule, drain=drain)
        run = self.generator.start([one.target for one in members], schedule, self.seed)
        self.seed += 1000
        try:
            time.sleep(schedule.ramp)
            during(schedule.measure)
        except BaseException:
            run.abort()
            raise
        return run.finish()

    def _judge(
        self, results: list[GuestResult], requests: pd.DataFrame, loaded: WindowCost
    ) -> Verdict:
        cpu = loaded.generator_cpu / (loaded.seconds * len(self.generator.cpus))
        return judge.judge_point(results, requests, self.limits, cpu, loaded.swapped)

    def cost_of(self, seconds: float) -> WindowCost:
        """What the host spends on the guests that run, in the next seconds."""
        before = self._read()
        time.sleep(seconds)
        return accounting.cost(before, self._read(), self.deployment.cpus)

    def _read(self) -> accounting.Reading:
        generator = self.generator.guest
        return accounting.read(self.host, self.deployment.members, generator.statistics())

    def measure_reference(self, runs: int) -> str:
        """Measure one tile alone and freeze the limits. Returns why it is no reference, or ""."""
        for _ in range(runs):
            self.measure(1)
        points = self.points[-runs:]
        references = [point.results for point in points]
        if problem := judge.reference_problem(references):
            return problem
        guests = [one.role for one in self.deployment.members]
        self.limits = judge.freeze_limits(guests, references)
        for number, point in enumerate(points, len(self.points) - runs):
            results = [
                judge.with_problem(replace(one, limit=self.limits[one.name]))
                for one in point.results
            ]
            verdict = self._judge(results, point.requests, point.loaded)
            self.points[number] = replace(point, results=results, verdict=verdict)
            if verdict.outcome != "pass":
                return f"reference run {number + 1} is {verdict.outcome}: {verdict.reasons[0]}"
        return ""


class MakeExperiment(Protocol):
    """The type of the fixture make_experiment."""

    def __call__(self, phases: str, own_tile: Tile | None = None, /) -> Experiment:
        """An experiment with the phases of this name. own_tile: instead of the session's."""
