"""The samples of a search for the knee, by hypervisor."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from harness.results.schema import decode_parameters
from reports.page import Run, target_label

PREFIX = "consolidation."


@dataclass(frozen=True)
class Search:
    """One hypervisor's search. frame: its samples, with a column for each parameter."""

    hypervisor: str
    backend: str
    frame: pd.DataFrame

    @property
    def label(self) -> str:
        return target_label(self.hypervisor, self.backend)

    def value(self, metric: str) -> float:
        """The median of a metric that the search has once; NaN without it."""
        values = self.frame.loc[self.frame["metric"] == metric, "value"]
        return float(values.median()) if len(values) else math.nan

    def by_tiles(self, metric: str, **parameters: Any) -> pd.Series[float]:
        """The median of a metric at each number of tiles."""
        chosen = self.frame["metric"] == metric
        for name, wanted in parameters.items():
            chosen &= self.frame[name] == wanted
        return self.frame[chosen].groupby("tiles")["value"].median().sort_index()

    def points(self, metric: str, **parameters: Any) -> list[tuple[float, float]]:
        """Number of tiles and median of a metric, in the order of tiles."""
        values = self.by_tiles(metric, **parameters)
        return [(float(str(tiles)), float(value)) for tiles, value in values.items()]

    @property
    def tiles(self) -> list[float]:
        """The measured numbers of tiles, ascending."""
        return [tiles for tiles, _ in self.points("score")]

    @cached_property
    def knee(self) -> float:
        return self.value("knee")

    @property
    def band(self) -> tuple[float, float]:
        return self.value("knee.lowest"), self.value("knee.highest")

    @cached_property
    def guests(self) -> list[str]:
        """Names in the order of the tile, those with a percentile first."""
        limits = self.frame[self.frame["metric"] == "latency.limit"]
        order = limits.drop_duplicates("guest").sort_values("percentile", kind="stable")
        return [str(name) for name in order["guest"]]

    def limit(self, guest: str) -> float:
        return float(self._limits(guest)["value"].median())

    def percentile(self, guest: str) -> float:
        return float(self._limits(guest)["percentile"].iloc[0])

    def _limits(self, guest: str) -> pd.DataFrame:
        frame = self.frame
        return frame[(frame["metric"] == "latency.limit") & (frame["guest"] == guest)]


def searches(run: Run) -> Iterator[Search]:
    frame = own_samples(run)
    for (hypervisor, backend), group in frame.groupby(["hypervisor", "backend"], observed=True):
        if not (group["metric"] == f"{PREFIX}knee").any():
            continue
        test = group.loc[group["metric"] == f"{PREFIX}knee", "test"].iloc[0]
        yield Search(str(hypervisor), str(backend), wide(group[group["test"] == test]))


def wide(frame: pd.DataFrame) -> pd.DataFrame:
    """Metric without prefix, value, batch, and a column for each parameter."""
    names = frame["metric"].astype(str).str.removeprefix(PREFIX)
    parameters = pd.DataFrame(
        [decode_parameters(str(one)) for one in frame["parameters"]], index=frame.index
    )
    for name in ("tiles", "guest", "percentile", "load", "outcome", "deploy", "tile"):
        if name not in parameters:
            parameters[name] = None
    return parameters.assign(metric=names, value=frame["value"], batch=frame["batch"])


def own_samples(run: Run) -> pd.DataFrame:
    """The samples of the consolidation suite."""
    return run.frame[run.frame["metric"].str.startswith(PREFIX)]
