"""Models of synthetic points."""

from __future__ import annotations

from dataclasses import replace

import pytest

from suites.consolidation.fit import fit_busy, fit_scalability
from tests.suites.consolidation.points import BASE, point


def test_cost_is_split_into_base_guests_and_work() -> None:
    points = [point(tiles, guest_cost=0.03, demand_cost=1.5) for tiles in (1, 2, 4)]
    points.append(replace(point(3, "invalid"), loaded=point(1).loaded))
    fit = fit_busy(points)
    assert fit is not None
    assert (fit.base, fit.guest, fit.demand) == pytest.approx((BASE, 0.03, 1.5))
    assert fit.residual == pytest.approx(0, abs=1e-9)


def test_scalability_needs_five_numbers_of_tiles() -> None:
    points = [point(tiles) for tiles in (1, 1, 2, 3, 4)]
    assert fit_scalability(points) is None
    law = fit_scalability([*points, point(6)])
    assert law is not None
    assert (law.contention, law.coherency) == pytest.approx((0, 0), abs=1e-6)


def test_scalability_describes_lost_answers() -> None:
    numbers = (1, 2, 4, 8, 12, 16)
    points = [point(n, achieved=1 / (1 + 0.02 * (n - 1) + 0.001 * n * (n - 1))) for n in numbers]
    law = fit_scalability(points)
    assert law is not None
    assert law.contention == pytest.approx(0.02, rel=0.05)
    assert law.coherency == pytest.approx(0.001, rel=0.05)
