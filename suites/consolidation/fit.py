"""The CPU that guests cost a host, as a linear model of the measured points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from suites.consolidation.experiment import Point


@dataclass(frozen=True)
class Fit:
    """busy = base + guest * guests + demand * (work of the guests), in CPUs.

    base: of the host without guests. guest: of one idle guest. demand: CPUs of the host for one CPU
    of work in guests. residual: root of the mean squared error, in CPUs.
    """

    base: float
    guest: float
    demand: float
    residual: float


def fit_busy(points: Sequence[Point]) -> Fit:
    """Fit the model to the idle and the loaded window of each point; no coefficient is negative."""
    windows = [(point, window) for point in points for window in (point.idle, point.loaded)]
    matrix = np.array([[1, point.guests, w.demand / w.seconds] for point, w in windows])
    busy = np.array([window.busy / window.seconds for _, window in windows])
    coefficients, norm = nnls(matrix, busy)
    base, guest, demand = (float(one) for one in coefficients)
    return Fit(base, guest, demand, float(norm / np.sqrt(len(busy))))
