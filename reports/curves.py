"""A chart of curves over a common axis, with a limit and a band."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from reports import svg, text

_HEIGHT = 220.0
_MOST_DOTS = 40  # of a curve with a dot and its tooltip at each point
NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Curve:
    """Points in the order of x. style: s1 to s5. dashed: a limit or an ideal, not a measurement.

    An infinite y is a request without an answer. It is drawn as a triangle at the upper edge.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    dashed: bool = False

    @property
    def has_unanswered(self) -> bool:
        return any(math.isinf(y) for _, y in self.points)


@dataclass(frozen=True)
class Chart:
    """Curves, and what their axes mean.

    unit: of y. x_marks: places of labels on the x axis; (x, text). band: a range of x that is
    shaded, such as an interval. logarithmic: the y axis; values must be above 0.
    """

    title: str
    description: str
    curves: Sequence[Curve]
    unit: str
    x_label: str
    x_marks: Sequence[tuple[float, str]] = field(default_factory=tuple)
    band: tuple[float, float] | None = None
    logarithmic: bool = False

    @property
    def has_unanswered(self) -> bool:
        return any(curve.has_unanswered for curve in self.curves)


@dataclass(frozen=True)
class _Area:
    """Where the points of a chart are drawn."""

    x: Callable[[float], float]
    y: Callable[[float], float]
    left: float
    right: float
    top: float
    bottom: float


def draw(chart: Chart) -> Callable[[float], svg.Canvas]:
    """The chart at a width."""
    xs = [x for curve in chart.curves for x, _ in curve.points]
    ys = [y for curve in chart.curves for _, y in curve.points if math.isfinite(y)] or [1.0]
    marks = svg.log_ticks(min(ys), max(ys)) if chart.logarithmic else svg.ticks(max(ys), 4)
    scale = math.log10 if chart.logarithmic else float

    def at_width(width: float) -> svg.Canvas:
        canvas = svg.Canvas(width, chart.title, chart.description)
        top = svg.legend(canvas, [(curve.style, curve.name) for curve in chart.curves], 0) + 4
        left, right, bottom = 66.0, width - 16, top + _HEIGHT
        place_y = svg.linear(scale(marks[0]), scale(marks[-1]), bottom, top)
        x = svg.linear(min(xs), max(xs), left + 8, right - 8)

        def y(value: float) -> float:
            return top if math.isinf(value) else place_y(scale(value))

        area = _Area(x, y, left, right, top, bottom)
        if chart.band:
            low, high = (min(max(end, min(xs)), max(xs)) for end in chart.band)
            canvas.rect((x(low) - 4, top), x(high) - x(low) + 8, _HEIGHT, "band")
        _axes(canvas, chart, area, marks, (min(xs), max(xs)))
        shift = 0.0
        for curve in chart.curves:
            _curve(canvas, curve, area, chart.unit, shift)
            if curve.has_unanswered and len(curve.points) <= _MOST_DOTS:
                shift -= 9
        canvas.height = bottom + 42
        return canvas

    return at_width


def _axes(
    canvas: svg.Canvas, chart: Chart, area: _Area, marks: Sequence[float], ends: tuple[float, float]
) -> None:
    for mark in marks:
        canvas.line((area.left, area.y(mark)), (area.right, area.y(mark)), "grid")
        label = text.round_quantity(mark, chart.unit) if mark else "0"
        canvas.text(area.left - 6, area.y(mark) + 4, label, "tick", anchor="end")
    canvas.line((area.left, area.bottom), (area.right, area.bottom), "axis")
    taken = -math.inf
    for mark_x, label in chart.x_marks:
        place = area.x(mark_x)
        if ends[0] <= mark_x <= ends[1] and place - 3.6 * len(label) > taken:
            canvas.text(place, area.bottom + 16, label, "tick", anchor="middle")
            taken = place + 3.6 * len(label) + 4
    middle = (area.left + area.right) / 2
    canvas.text(middle, area.bottom + 34, chart.x_label, "tick", anchor="middle")


def _curve(canvas: svg.Canvas, curve: Curve, area: _Area, unit: str, shift: float) -> None:
    """shift: of triangles, which would else lie on those of other curves."""
    places = [(area.x(a), area.y(b)) for a, b in curve.points]
    steps = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    canvas.path(steps, f"{curve.style} curve" + (" cut" if curve.dashed else ""))
    if curve.dashed:
        return
    for (a, b), (x, y) in zip(curve.points, places, strict=True):
        if math.isinf(b):
            tooltip = f"{curve.name}: {NO_ANSWER} at {a:g}"
            triangle = f"M{x + shift - 7:.1f} {y + 12:.1f}h14l-7 -14Z"
            canvas.path(triangle, f"{curve.style} dot", tooltip)
        elif len(places) <= _MOST_DOTS:
            canvas.dot(
                x, y, f"{curve.style} dot", f"{curve.name}: {text.quantity(b, unit)} at {a:g}"
            )
