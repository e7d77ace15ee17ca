"""Amounts, names and hours of a plan in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from harness.planner.plan import Plan
from harness.planner.trace import METRICS
from reports import text
from reports.page import Cell

HOURS = 168  # of a week
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
NOT_GIVEN = "not given"  # nobody gave a price or a size
_MOST_NAME = 60
_MOST_LINE = 400


def amount(value: float | None, unit: str = "", digits: int = 3) -> str:
    """A value with its unit; "not given" for None, – for a value that is not finite."""
    if value is None:
        return NOT_GIVEN
    shown = text.number(value, digits)
    return f"{shown} {unit}" if unit and shown != text.NONE else shown


def whole(value: float, unit: str = "") -> str:
    """A count with its unit: "31 hosts"."""
    if not math.isfinite(value):
        return text.NONE
    return f"{value:,.0f} {unit}".strip().replace("-", "−")


def amount_cell(value: float | None, digits: int = 3) -> Cell:
    return Cell(amount(value, digits=digits), math.nan if value is None else float(value))


def whole_cell(value: float) -> Cell:
    return Cell(whole(value), float(value))


def share(part: float) -> str:
    """A share as a percentage; a small one is not shown as 0."""
    return "below 0.1 %" if 0 < part < 0.0005 else text.percent(part)


def share_cell(part: float, style: str = "") -> Cell:
    return Cell(share(part), float(part), style=style)


def line(words: str) -> str:
    """Words that a plan brings, on one line and not too long."""
    return text.truncated(text.printable(words[: 2 * _MOST_LINE]), _MOST_LINE)


def name(raw: str) -> str:
    """The name of a machine or a host, on one line and not too long."""
    return text.shortened(text.printable(raw), _MOST_NAME) or text.NONE


def names(all_names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are: "a, b and 10 more"."""
    shown = ", ".join(map(name, all_names[:most]))
    rest = len(all_names) - most
    return f"{shown} and {rest:,} more" if rest > 0 else shown


def sentence(words: str) -> str:
    """Words that a plan brings, on one line with a capital and a full stop."""
    said = line(words)
    said = said[:1].upper() + said[1:]
    return said if not said or said.endswith((".", "!", "?", "…")) else f"{said}."


def hour_name(hour: int) -> str:
    """An hour of the week: 38 -> "Tue 14:00"."""
    return f"{DAYS[hour // 24 % 7]} {hour % 24:02}:00"


def week(hours: Sequence[float]) -> list[float]:
    """Exactly one value for each hour of the week; NaN where nothing is known."""
    known = [hour if math.isfinite(hour) else math.nan for hour in hours[:HOURS]]
    return known + [math.nan] * (HOURS - len(known))


def busiest(hours: Sequence[float]) -> tuple[int, float] | None:
    """The hour of the week with the highest value; None where no value is known."""
    known = [(value, -hour) for hour, value in enumerate(week(hours)) if not math.isnan(value)]
    if not known:
        return None
    value, hour = max(known)
    return -hour, value


def planned_metrics(plan: Plan) -> list[str]:
    """The metrics that hosts have a peak of."""
    return [metric for metric in METRICS if any(metric in host.peak for host in plan.hosts)]


def total(values: Iterable[float | None]) -> float | None:
    """The sum of what was given; None if nothing was."""
    given = [value for value in values if value is not None]
    return math.fsum(given) if given else None
