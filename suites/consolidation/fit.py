"""Models of the measured points: the CPU that guests cost a host, and how the score grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import curve_fit, nnls

from harness.results.statistics import Floats
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


@dataclass(frozen=True)
class Scalability:
    """The Universal Scalability Law, for the score of n tiles:

        n / (1 + contention (n - 1) + coherency n (n - 1))

    It describes the points, and predicts nothing beyond them. Source: N. J. Gunther, Guerrilla
    Capacity Planning, 2007.
    """

    contention: float
    coherency: float


MIN_NUMBERS = 5  # different numbers of tiles
MAX_BUSY = 0.95  # of the guests' CPUs: beyond it, more work no longer shows


def says_something(point: Point) -> bool:
    """Whether the cost of a point is that of all its guests."""
    return point.verdict.outcome != "invalid" and not point.ends


def fit_busy(points: Sequence[Point]) -> Fit | None:
    """Fit the model to the idle and the loaded window of each point; no coefficient is negative.

    Invalid points, those with guests that ended, and windows with saturated CPUs are left out. None
    if those left cannot tell the terms apart.
    """
    windows = [
        (point, window)
        for point in points
        for window in (point.idle, point.loaded)
        if says_something(point) and window.busy_share <= MAX_BUSY
    ]
    matrix = np.array([[1, point.guests, w.demand / w.seconds] for point, w in windows])
    if len(windows) < 3 or np.linalg.matrix_rank(matrix) < 3:
        return None
    busy = np.array([window.busy / window.seconds for _, window in windows])
    coefficients, norm = nnls(matrix, busy)
    base, guest, demand = (float(one) for one in coefficients)
    return Fit(base, guest, demand, float(norm / np.sqrt(len(busy))))


def fit_scalability(points: Sequence[Point]) -> Scalability | None:
    """Fit the law to the scores of valid points; None with fewer than MIN_NUMBERS numbers."""
    valid = [point for point in points if says_something(point)]
    tiles = np.array([point.tiles for point in valid])
    if len(set(tiles.tolist())) < MIN_NUMBERS:
        return None
    scores = np.array([point.score for point in valid])
    (contention, coherency), _ = curve_fit(_scalability, tiles, scores, (0.0, 0.0), bounds=(0, 1))
    return Scalability(float(contention), float(coherency))


def _scalability(tiles: Floats, contention: float, coherency: float) -> Floats:
    return tiles / (1 + contention * (tiles - 1) + coherency * tiles * (tiles - 1))
