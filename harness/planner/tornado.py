"""Sensitivities: how the hosts and the cost of a plan change with one assumption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from harness.planner.cases import Case, changed
from harness.planner.money import total_cost
from harness.planner.packed_case import PackedCase
from harness.planner.plan import Fleet, Sensitivity

_IDLE_FACTORS = (0.7, 1.5)


@dataclass(frozen=True)
class Swing:
    """One bar of the tornado: the same case with a low and a high value of one assumption."""

    name: str
    low: Case
    high: Case
    low_value: str
    high_value: str


def swings(base: Case, *, means_only: bool) -> list[Swing]:
    """Sensitivities that change the number of hosts. means_only: whether burst matters."""
    target = base.model.overhead.utilization
    low, high = max(target - 0.1, 0.05), min(target + 0.1, 0.95)
    found = [
        _swing(base, "Growth", "grow", 0.8, 1.2),
        _swing(base, "Target utilization", "utilization", low, high),
    ]
    if means_only:
        found.append(_swing(base, "Burst", "burst", 1.0, max(1.3, base.model.burst)))
    return found


def _site_swings(base: Case) -> list[Swing]:
    """Sensitivities that change only energy and cost."""

    def with_idle(factor: float) -> Case:
        types = (replace(one, curve=one.curve.scaled_idle(factor)) for one in base.types)
        return replace(base, types=tuple(types))

    found = [_swing(base, "PUE", "pue", 1.2, 1.9)]
    if price := base.site.energy_price:
        found.append(_swing(base, "Price of energy", "price", 0.5 * price, 1.5 * price))
    low, high = _IDLE_FACTORS
    return [
        *found,
        Swing("Idle watts", with_idle(low), with_idle(high), f"{low:.0%}", f"{high:.0%}"),
    ]


def _swing(base: Case, name: str, key: str, low: float, high: float) -> Swing:
    return Swing(
        name, changed(base, key, low), changed(base, key, high), f"{low:.2g}", f"{high:.2g}"
    )


def sensitivities(
    own: PackedCase,
    swings: Sequence[tuple[Swing, PackedCase, PackedCase]],
    fleet: Callable[[PackedCase], Fleet],
) -> Iterator[Sensitivity]:
    """Bars in hosts, then bars in the cost of a year, or in kWh where no price is given.

    swings: with their packings. fleet: the totals of a packed case.
    """
    base = fleet(own)
    currency = own.case.site.currency
    unit = "kWh a year" if total_cost(base) is None else f"{currency} a year"

    def amount(packed: PackedCase) -> float:
        totals = fleet(packed)
        cost = total_cost(totals)
        return totals.kwh if cost is None else cost

    for swing, low, high in swings:
        yield _bar(swing, len(low.hosts), len(high.hosts), len(own.hosts), "hosts")
    own_amount = amount(own)
    for swing, low, high in swings:
        yield _bar(swing, amount(low), amount(high), own_amount, unit)
    for swing in _site_swings(own.case):
        low_amount, high_amount = (
            amount(replace(own, case=case)) for case in (swing.low, swing.high)
        )
        yield _bar(swing, low_amount, high_amount, own_amount, unit)


def _bar(swing: Swing, low: float, high: float, base: float, unit: str) -> Sensitivity:
    return Sensitivity(swing.name, swing.low_value, swing.high_value, low, high, base, unit)
