"""The samples of a search for the knee, by hypervisor."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from harness.results.schema import decode_parameters
from reports.page import Run, target_label

PREFIX = "consolidation."
# end of the name of a metric whose samples stand for infinite values of the metric
UNANSWERED = ".unanswered"
PARAMETERS = ("tiles", "guest", "percentile", "load", "outcome", "reason", "deploy", "tile")
INVALID = "invalid"  # the outcome of a point that says nothing
_SLOWEST, _LIMIT = "latency.worst_guest", "latency.limit"


@dataclass(frozen=True)
class PointSpan:
    """A measured point. number: in the order of the search. start, end: s since the epoch, NaN
    where they are not known. reason: why it did not pass, or ""."""

    number: int
    tiles: float
    outcome: str
    reason: str
    start: float
    end: float


@dataclass(frozen=True)
class Search:
    """One hypervisor's search. frame: its samples, with a column for each parameter."""

    hypervisor: str
    backend: str
    frame: pd.DataFrame

    @property
    def label(self) -> str:
        return target_label(self.hypervisor, self.backend)

    @cached_property
    def valid(self) -> pd.DataFrame:
        """The samples without those of invalid points, where their number of tiles has others."""
        judged = {one.tiles for one in self.spans if one.outcome != INVALID}
        numbers = [
            one.number for one in self.spans if one.outcome == INVALID and one.tiles in judged
        ]
        return self.frame[~(self.frame["batch"].isin(numbers) & self.frame["tiles"].notna())]

    def value(self, metric: str) -> float:
        """The median of a metric that the search has once; NaN without it."""
        values = self.frame.loc[self.frame["metric"] == metric, "value"]
        return float(values.median()) if len(values) else math.nan

    def text(self, metric: str, parameter: str) -> str:
        """A parameter of a metric that the search has once; "" without it."""
        values = self.frame.loc[self.frame["metric"] == metric, parameter]
        return next((value for value in values if isinstance(value, str)), "")

    def by_tiles(self, metric: str, **parameters: Any) -> pd.Series[float]:
        """The median of a metric at each number of tiles. It may be an infinite latency."""
        chosen = self.valid["metric"] == metric
        for name, wanted in parameters.items():
            chosen &= self.valid[name] == wanted
        return self.valid[chosen].groupby("tiles")["value"].median().sort_index()

    def points(self, metric: str, **parameters: Any) -> list[tuple[float, float]]:
        """Number of tiles and median of a metric, in the order of tiles."""
        values = self.by_tiles(metric, **parameters)
        return [(float(str(tiles)), float(value)) for tiles, value in values.items()]

    def at(self, tiles: float, metric: str, **parameters: Any) -> float:
        """The median of a metric at a number of tiles; NaN without it."""
        return float(self.by_tiles(metric, **parameters).get(tiles, math.nan))

    @cached_property
    def tiles(self) -> list[float]:
        """The measured numbers of tiles, ascending."""
        return [tiles for tiles, _ in self.points("score")]

    @cached_property
    def knee(self) -> float:
        return self.value("knee")

    @property
    def whole_knee(self) -> float:
        """The knee without the quarters of a tile."""
        return float(math.floor(self.knee))

    @property
    def band(self) -> tuple[float, float]:
        return self.value("knee.lowest"), self.value("knee.highest")

    @property
    def ended_early(self) -> bool:
        """Whether the knee may be higher, since the search did not reach a failure."""
        return bool(self.value("knee.at_least") == 1)

    @cached_property
    def guests(self) -> list[str]:
        """Names in the order of the tile, those with a percentile first."""
        limits = self.frame[self.frame["metric"] == _LIMIT]
        order = limits.drop_duplicates("guest").sort_values("percentile", kind="stable")
        return [str(name) for name in order["guest"]]

    def limit(self, guest: str) -> float:
        return float(self._limits(guest)["value"].median())

    def percentile(self, guest: str) -> float:
        return float(self._limits(guest)["percentile"].iloc[0])

    def _limits(self, guest: str) -> pd.DataFrame:
        frame = self.frame
        return frame[(frame["metric"] == _LIMIT) & (frame["guest"] == guest)]

    @cached_property
    def spans(self) -> list[PointSpan]:
        """All points in the order of the search."""
        times: dict[str, dict[Hashable, float]] = {}
        for end in ("start", "end"):
            moments = self.frame[self.frame["metric"] == f"point.{end}"]
            times[end] = dict(zip(moments["batch"], moments["value"], strict=True))
        points = self.frame[self.frame["metric"] == "point"].sort_values("batch")
        return [
            PointSpan(
                number=int(row["batch"]),
                tiles=float(row["tiles"]),
                outcome=str(row["outcome"]),
                reason=row["reason"] if isinstance(row["reason"], str) else "",
                start=times["start"].get(row["batch"], math.nan),
                end=times["end"].get(row["batch"], math.nan),
            )
            for row in points.to_dict("records")
        ]


def searches(run: Run) -> Iterator[Search]:
    frame = own_samples(run)
    for (hypervisor, backend), group in frame.groupby(["hypervisor", "backend"], observed=True):
        if not (group["metric"] == f"{PREFIX}knee").any():
            continue
        test = group.loc[group["metric"] == f"{PREFIX}knee", "test"].iloc[0]
        yield Search(str(hypervisor), str(backend), wide(group[group["test"] == test]))


def wide(frame: pd.DataFrame) -> pd.DataFrame:
    """Metric without prefix, value, batch, and a column for each parameter. Requests without an
    answer are infinite latencies."""
    names = frame["metric"].astype(str).str.removeprefix(PREFIX)
    unanswered = names.str.endswith(UNANSWERED)
    parameters = pd.DataFrame(
        [decode_parameters(str(one)) for one in frame["parameters"]], index=frame.index
    )
    for name in PARAMETERS:
        if name not in parameters:
            parameters[name] = None
    table = parameters.assign(
        metric=names.str.removesuffix(UNANSWERED),
        value=frame["value"].mask(unanswered, math.inf),
        batch=frame["batch"],
    )
    return _with_unanswered_guests(table)


def _with_unanswered_guests(table: pd.DataFrame) -> pd.DataFrame:
    """Adds the infinite latency of the slowest guest, which has no sample.

    That is so in a point where a guest's name has a limit and unanswered requests, but no slowest
    guest.
    """
    latencies = table[(table["metric"] == "latency") & (table["value"] == math.inf)]
    slowest = table[table["metric"] == _SLOWEST]
    point = ["batch", "guest"]
    without = _keys(latencies, point) - _keys(slowest, point)
    limits = table[table["metric"] == _LIMIT]
    chosen = [key in without for key in zip(*(limits[name] for name in point), strict=True)]
    return pd.concat([table, limits[chosen].assign(metric=_SLOWEST, value=math.inf)])


def _keys(table: pd.DataFrame, names: list[str]) -> set[tuple[Any, ...]]:
    return set(zip(*(table[name] for name in names), strict=True))


def own_samples(run: Run) -> pd.DataFrame:
    """The samples of the consolidation suite."""
    return run.frame[run.frame["metric"].str.startswith(PREFIX)]
