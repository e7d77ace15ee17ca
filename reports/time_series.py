"""Drawings of a series over its runs: a sparkline for a table, and a chart with axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup, escape

from reports import svg, text

SPARK = (120, 26)
_EDGE = 3


@dataclass(frozen=True)
class ChangeMark:
    """A change point: index of its first run, its direction, its new level."""

    at: int
    worse: bool
    level: float


@dataclass(frozen=True)
class TimeSeries:
    """The values of a figure over the runs.

    values: one for each run; NaN when not measured. days: start of each run. level: before the
    first change. changes: in the order of their runs.
    """

    values: Sequence[float]
    days: Sequence[datetime | None]
    level: float
    changes: Sequence[ChangeMark]


def spark(
    values: Sequence[float], changes: Sequence[ChangeMark], label: str, max_points: int
) -> Markup:
    """A sparkline of at most `max_points` points, with change points as vertical lines."""
    width, height = SPARK
    known = [value for value in values if math.isfinite(value)]
    x = svg.linear(0, max(len(values) - 1, 1), _EDGE, width - _EDGE)
    y = svg.linear(*_ends(known, 0.0), height - _EDGE, _EDGE)
    line = _line([(x(at), y(value)) for at, value in thinned(values, max_points)])
    parts = [f'<path class="line" d="{line}"/>']
    for worse, style in ((True, "c-bad"), (False, "c-good")):
        cuts = "".join(
            f"M{x(change.at - 0.5):.0f} 0v{height}" for change in changes if change.worse is worse
        )
        if cuts:
            parts.append(f'<path class="{style}" d="{cuts}"/>')
    head = f'<svg class="spark" viewBox="0 0 {width} {height}" role="img" aria-label="'
    # the label is escaped; the other parts are numbers
    return Markup(head + str(escape(label)) + '">' + "".join(parts) + "</svg>")  # noqa: S704


def thinned(values: Sequence[float], max_points: int) -> list[tuple[float, float]]:
    """Index and value; groups of neighbours are reduced to minimum and maximum, so peaks stay."""
    known = [(float(at), value) for at, value in enumerate(values) if math.isfinite(value)]
    if len(known) <= max_points:
        return known
    size = math.ceil(len(known) / max(max_points // 2, 1))
    points = []
    for start in range(0, len(known), size):
        part = known[start : start + size]
        low, high = min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])
        points += sorted({low, high})
    return points


def _line(points: Sequence[tuple[float, float]]) -> str:
    """A path in integer coordinates with relative steps, which is the shortest notation."""
    steps, before = [], (0, 0)
    for i, (x, y) in enumerate(points):
        place = round(x), round(y)
        if i == 0:
            steps.append(f"M{place[0]} {place[1]}")
            if len(points) == 1:
                steps.append("h2")
        elif place != before:
            dx, dy = place[0] - before[0], place[1] - before[1]
            steps.append(f"l{dx} {dy}" if i == 1 else f" {dx} {dy}")
        before = place
    return "".join(steps).replace(" -", "-") or "M0 0"


def _ends(known: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if low == high:
        low, high = low - abs(low or 1) * 0.05, high + abs(high or 1) * 0.05
    return low - margin * (high - low), high + margin * (high - low)


def chart(
    title: str, description: str, one: TimeSeries, unit: str
) -> Callable[[float], svg.Canvas]:
    """Points, levels as steps, and change points with dates. The axis need not begin at 0."""

    def draw(width: float) -> svg.Canvas:
        canvas = svg.Canvas(width, title, description)
        known = [value for value in one.values if math.isfinite(value)]
        ends = [*known, *(v for v in _levels(one) if math.isfinite(v))]
        low, high = _ends(ends, 0.08)
        left, right, top, bottom = 74.0, width - 14, 24.0, 210.0
        x = svg.linear(0, max(len(one.values) - 1, 1), left + 8, right - 8)
        y = svg.linear(low, high, bottom, top)
        for mark in _marks(low, high):
            canvas.line((left, y(mark)), (right, y(mark)), "grid")
            label = text.round_quantity(mark, unit) if mark else "0"
            canvas.text(left - 8, y(mark) + 4, label, "tick", anchor="end")
        canvas.line((left, bottom), (right, bottom), "axis")
        _dates(canvas, one.days, x, bottom, 6 if width > 500 else 2)
        places = [(x(at), y(value)) for at, value in thinned(one.values, 400)]
        canvas.path("".join(f"M{px:.0f} {py:.1f}h0" for px, py in places), "points")
        _steps(canvas, one, x, y)
        _changes(canvas, one, x, (top, bottom), width)
        canvas.height = bottom + 26
        return canvas

    return draw


def _levels(one: TimeSeries) -> list[float]:
    return [one.level, *(change.level for change in one.changes)]


def _marks(low: float, high: float) -> list[float]:
    step = svg.ticks(high - low, 4)[1]
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _dates(
    canvas: svg.Canvas,
    days: Sequence[datetime | None],
    x: Callable[[float], float],
    bottom: float,
    count: int,
) -> None:
    last = len(days) - 1
    places = sorted({round(i * last / (count - 1)) for i in range(count)}) if last > 0 else [0]
    for at in places:
        day = days[at] if days else None
        if day is None:
            continue
        anchor = "start" if at == 0 else "end" if at == last else "middle"
        canvas.text(x(at), bottom + 17, f"{day.day} {day:%b %Y}", "tick", anchor=anchor)


def _steps(
    canvas: svg.Canvas, one: TimeSeries, x: Callable[[float], float], y: Callable[[float], float]
) -> None:
    starts = [0.0, *(change.at - 0.5 for change in one.changes), float(len(one.values) - 1)]
    for level, start, end in zip(_levels(one), starts, starts[1:], strict=False):
        if math.isfinite(level):
            canvas.path(f"M{x(start):.1f} {y(level):.1f}H{x(end):.1f}", "level")


def _changes(
    canvas: svg.Canvas,
    one: TimeSeries,
    x: Callable[[float], float],
    span: tuple[float, float],
    width: float,
) -> None:
    taken = -math.inf
    for change in one.changes:
        place = x(change.at - 0.5)
        style = "c-bad" if change.worse else "c-good"
        canvas.path(f"M{place:.1f} {span[0] - 6:.0f}V{span[1]:.0f}", f"{style} cut")
        day = one.days[change.at] if change.at < len(one.days) else None
        label = ("▲ worse" if change.worse else "▼ better") + (f" {day:%d %b}" if day else "")
        half = 3.4 * len(label)
        if place - half > taken:
            middle = min(max(place, half + 2), width - half - 2)
            canvas.text(middle, span[0] - 10, label, "tick", anchor="middle")
            taken = middle + half + 6
