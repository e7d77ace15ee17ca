"""Electrical power and carbon of hosts: piecewise linear power curves over utilization."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

TABLE = Path(__file__).parent / "data" / "power_curves.csv"
LOADS = tuple(range(0, 101, 10))  # percent
HOURS_A_YEAR = 8760
_UTILIZATION = np.array(LOADS) / 100


@dataclass(frozen=True)
class PowerCurve:
    """Watts of a host at 0 %, 10 %, ..., 100 % utilization. source: who says so."""

    watts: tuple[float, ...]
    source: str

    def at(self, utilization: NDArray[np.floating]) -> NDArray[np.float64]:
        """Watts at each utilization, linear between the points. It is limited to 0 to 1."""
        watts: NDArray[np.float64] = np.interp(utilization, _UTILIZATION, self.watts)
        return watts

    def scaled_idle(self, factor: float) -> PowerCurve:
        """The curve of a host whose idle power differs, and whose power at full load does not."""
        added = (factor - 1) * self.watts[0] * (1 - _UTILIZATION)
        return PowerCurve(tuple(float(w) for w in self.watts + added), self.source)


@cache
def default_curves() -> Mapping[str, PowerCurve]:
    """The curves that the planner is shipped with, by name; see data/README.md."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return MappingProxyType(
        {
            row["name"]: PowerCurve(
                tuple(float(row[f"w{load}"]) for load in LOADS),
                f"curve {row['name']}: medians of {row['results']} SPECpower_ssj2008 results",
            )
            for row in rows
        }
    )


def kwh_a_year(kilowatts: float) -> float:
    return kilowatts * HOURS_A_YEAR


def carbon_a_year(kwh: float, kg_per_kwh: float, embodied: float) -> float:
    """kg CO2 of a year. embodied: kg of a year, of hosts' production."""
    return kwh * kg_per_kwh + embodied
