"""Drawings of a series over its runs: a line for a table's cell, and a chart with axes."""

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
class Turn:
    """A change point: the place of its first run, whether it is for the worse, the new level."""

    at: int
    worse: bool
    level: float


@dataclass(frozen=True)
class History:
    """Values by the run's place (NaN: not measured), the level before the first change, and the
    changes. days: of each run."""

    values: Sequence[float]
    days: Sequence[datetime | None]
    level: float
    turns: Sequence[Turn]


def spark(values: Sequence[float], turns: Sequence[Turn], said: str, most: int) -> Markup:
    """The line of a series, in at most `most` points, and its change points as upright lines."""
    width, height = SPARK
    known = [value for value in values if math.isfinite(value)]
    x = svg.linear(0, max(len(values) - 1, 1), _EDGE, width - _EDGE)
    y = svg.linear(*_ends(known, 0.0), height - _EDGE, _EDGE)
    line = _line([(x(at), y(value)) for at, value in thinned(values, most)])
    parts = [f'<path class="line" d="{line}"/>']
    for worse, style in ((True, "c-bad"), (False, "c-good")):
        cuts = "".join(
            f"M{x(turn.at - 0.5):.0f} 0v{height}" for turn in turns if turn.worse is worse
        )
        if cuts:
            parts.append(f'<path class="{style}" d="{cuts}"/>')
    head = f'<svg class="spark" viewBox="0 0 {width} {height}" role="img" aria-label="'
    # the label is escaped, all else is numbers
    return Markup(head + str(escape(said)) + '">' + "".join(parts) + "</svg>")  # noqa: S704


def thinned(values: Sequence[float], most: int) -> list[tuple[float, float]]:
    """Place and value; of many neighbours the least and the greatest, so that no peak is lost."""
    known = [(float(at), value) for at, value in enumerate(values) if math.isfinite(value)]
    if len(known) <= most:
        return known
    size = math.ceil(len(known) / max(most // 2, 1))
    kept = []
    for start in range(0, len(known), size):
        part = known[start : start + size]
        low, high = min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])
        kept += sorted({low, high})
    return kept


def _line(points: Sequence[tuple[float, float]]) -> str:
    """A path in whole units, each step as from the one before: that is shortest."""
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


def _ends(known: Sequence[float], air: float) -> tuple[float, float]:
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if low == high:
        low, high = low - abs(low or 1) * 0.05, high + abs(high or 1) * 0.05
    return low - air * (high - low), high + air * (high - low)


def chart(title: str, description: str, one: History, unit: str) -> Callable[[float], svg.Canvas]:
    """Points, levels as steps, change points with their dates. The axis need not begin at 0."""

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
            said = text.round_quantity(mark, unit) if mark else "0"
            canvas.text(left - 8, y(mark) + 4, said, "tick", anchor="end")
        canvas.line((left, bottom), (right, bottom), "axis")
        _dates(canvas, one.days, x, bottom, 6 if width > 500 else 2)
        places = [(x(at), y(value)) for at, value in thinned(one.values, 400)]
        canvas.path("".join(f"M{px:.0f} {py:.1f}h0" for px, py in places), "points")
        _steps(canvas, one, x, y)
        _turns(canvas, one, x, (top, bottom), width)
        canvas.height = bottom + 26
        return canvas

    return draw


def _levels(one: History) -> list[float]:
    return [one.level, *(turn.level for turn in one.turns)]


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
    canvas: svg.Canvas, one: History, x: Callable[[float], float], y: Callable[[float], float]
) -> None:
    starts = [0.0, *(turn.at - 0.5 for turn in one.turns), float(len(one.values) - 1)]
    for level, start, end in zip(_levels(one), starts, starts[1:], strict=False):
        if math.isfinite(level):
            canvas.path(f"M{x(start):.1f} {y(level):.1f}H{x(end):.1f}", "level")


def _turns(
    canvas: svg.Canvas,
    one: History,
    x: Callable[[float], float],
    span: tuple[float, float],
    width: float,
) -> None:
    taken = -math.inf
    for turn in one.turns:
        place = x(turn.at - 0.5)
        style = "c-bad" if turn.worse else "c-good"
        canvas.path(f"M{place:.1f} {span[0] - 6:.0f}V{span[1]:.0f}", f"{style} cut")
        day = one.days[turn.at] if turn.at < len(one.days) else None
        said = ("▲ worse" if turn.worse else "▼ better") + (f" {day:%d %b}" if day else "")
        half = 3.4 * len(said)
        if place - half > taken:
            middle = min(max(place, half + 2), width - half - 2)
            canvas.text(middle, span[0] - 10, said, "tick", anchor="middle")
            taken = middle + half + 6
