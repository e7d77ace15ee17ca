"""A timeline: spans, stacked areas and lines in lanes over one axis of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from reports import svg, text
from reports.figures import StackedSeries, stack, without_gaps

_GAP = 26.0  # between lanes, with the title of the lower one
_SPANS, _AREAS, _LINE = 24.0, 130.0, 64.0  # heights
_LETTER, _LINE_HEIGHT = 7.4, 13.0  # of a label
_MINUTES_FROM = 600  # seconds


@dataclass(frozen=True)
class Span:
    """A stretch of time. Times are in seconds. label: shown where it has room."""

    start: float
    end: float
    label: str
    style: str
    tooltip: str


@dataclass(frozen=True)
class Event:
    """A moment on a line, at its value. up: the triangle points upwards."""

    at: float
    value: float
    label: str
    style: str
    up: bool


@dataclass(frozen=True)
class Lane:
    """A line over time. steps: the values hold until the next one."""

    title: str
    seconds: Sequence[float]
    values: Sequence[float]
    style: str
    high: float = 0.0
    steps: bool = False
    events: Sequence[Event] = field(default_factory=tuple)


@dataclass(frozen=True)
class Timeline:
    """All lanes, from 0 to `end` seconds. areas: with their title, or None."""

    end: float
    spans: Sequence[Span]
    spans_title: str
    areas: StackedSeries | None
    areas_title: str
    lanes: Sequence[Lane]


def draw(title: str, description: str, timeline: Timeline) -> Callable[[float], svg.Canvas]:
    """The timeline at a width."""

    def at_width(width: float) -> svg.Canvas:
        canvas = svg.Canvas(width, title, description)
        left, right, top = 44.0, width - 14, 0.0
        if timeline.areas:
            names = [(f"s{i + 1}", name) for i, name in enumerate(timeline.areas.parts)]
            top = svg.legend(canvas, names, 0)
        x = svg.linear(0, timeline.end, left, right)
        first = top + 12
        y = _spans(canvas, timeline, x, (left, top))
        if timeline.areas:
            y = _areas(canvas, timeline.areas, timeline.areas_title, x, (left, y, right))
        for lane in timeline.lanes:
            y = _lane(canvas, lane, x, (left, y, right))
        for span in timeline.spans:
            canvas.line((x(span.start), first), (x(span.start), y), "moment")
        canvas.line((left, y), (right, y), "axis")
        _times(canvas, timeline.end, x, y, 8 if width > 500 else 4)
        canvas.height = y + 24
        return canvas

    return at_width


def _spans(
    canvas: svg.Canvas,
    timeline: Timeline,
    x: Callable[[float], float],
    corner: tuple[float, float],
) -> float:
    left, top = corner
    canvas.text(left, top + 10, timeline.spans_title, "tick")
    top += 16
    for span in timeline.spans:
        start, end = x(span.start), x(span.end)
        canvas.rect((start, top), end - start, _SPANS, f"span {span.style}", span.tooltip)
        if end - start > _LETTER * len(span.label) + 2:
            canvas.text((start + end) / 2, top + 16, span.label, "small", anchor="middle")
    return top + _SPANS


def _frame(
    canvas: svg.Canvas,
    title: str,
    high: float,
    place: tuple[float, float, float],
    height: float,
) -> tuple[Callable[[float], float], float]:
    """The grid of a lane: its scale, and the y of its lower edge."""
    left, top, right = place
    canvas.text(left, top + _GAP - 8, title, "tick")
    top += _GAP
    marks = svg.ticks(high, 4 if height > _LINE else 2)
    y = svg.linear(0, marks[-1], top + height, top)
    for mark in marks:
        canvas.line((left, y(mark)), (right, y(mark)), "grid")
        canvas.text(left - 6, y(mark) + 4, f"{mark:g}", "tick", anchor="end")
    return y, top + height


def _areas(
    canvas: svg.Canvas,
    series: StackedSeries,
    title: str,
    x: Callable[[float], float],
    place: tuple[float, float, float],
) -> float:
    y, bottom = _frame(canvas, title, series.high, place, _AREAS)
    stack(canvas, series, x, y)
    return bottom


def _lane(
    canvas: svg.Canvas,
    lane: Lane,
    x: Callable[[float], float],
    place: tuple[float, float, float],
) -> float:
    y, bottom = _frame(canvas, lane.title, max(lane.high, *lane.values), place, _LINE)
    steps = ""
    for piece in [range(len(lane.seconds))] if lane.steps else without_gaps(lane.seconds):
        for number, at in enumerate(piece):
            across, up = x(lane.seconds[at]), y(lane.values[at])
            if number and lane.steps:
                steps += f"H{across:.0f}V{up:.1f}"
            else:
                steps += f"{'L' if number else 'M'}{across:.0f} {up:.1f}"
    canvas.path(steps, f"{lane.style} curve")
    _events(canvas, lane.events, x, y, place[2])
    return bottom


def _events(
    canvas: svg.Canvas,
    events: Sequence[Event],
    x: Callable[[float], float],
    y: Callable[[float], float],
    right: float,
) -> None:
    """Triangles, with their labels where no other label is."""
    taken: list[tuple[float, float, float]] = []
    for event in events:
        across, at = x(event.at), y(event.value)
        tip = -8 if event.up else 8
        triangle = f"M{across - 5:.1f} {at:.1f}h10L{across:.1f} {at + tip:.1f}Z"
        canvas.path(triangle, event.style, event.label)
        length = _LETTER * len(event.label)
        start = across + 7 if across + 7 + length < right else across - 7 - length
        base = at + (-4 if event.up else 15)
        free = all(
            start > end or start + length < begin or abs(base - other) > _LINE_HEIGHT
            for begin, end, other in taken
        )
        if free:
            canvas.text(start, base, event.label, "small label")
            taken.append((start, start + length, base))


def _times(
    canvas: svg.Canvas, end: float, x: Callable[[float], float], y: float, count: int
) -> None:
    scale, unit = (60.0, "min") if end >= _MINUTES_FROM else (1.0, "s")
    for mark in svg.ticks(end / scale, count):
        if mark * scale <= end:
            place = x(mark * scale)
            anchor = "start" if mark == 0 else "end" if place > canvas.width - 40 else "middle"
            canvas.text(place, y + 16, f"{text.number(mark, 2)} {unit}", "tick", anchor=anchor)
