"""A chart of curves over a common axis, with a limit and a band."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from reports import svg, text

_HEIGHT = 220.0


@dataclass(frozen=True)
class Curve:
    """Points in the order of x. style: s1 to s5. dashed: a limit or an ideal, not a measurement."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    dashed: bool = False


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


def draw(chart: Chart) -> Callable[[float], svg.Canvas]:
    """The chart at a width."""
    xs = [x for curve in chart.curves for x, _ in curve.points]
    ys = [y for curve in chart.curves for _, y in curve.points]

    def at_width(width: float) -> svg.Canvas:
        canvas = svg.Canvas(width, chart.title, chart.description)
        top = svg.legend(canvas, [(curve.style, curve.name) for curve in chart.curves], 0) + 4
        left, right, bottom = 66.0, width - 16, top + _HEIGHT
        marks = svg.log_ticks(min(ys), max(ys)) if chart.logarithmic else svg.ticks(max(ys), 4)
        scale = math.log10 if chart.logarithmic else float
        place_y = svg.linear(scale(marks[0]), scale(marks[-1]), bottom, top)
        x = svg.linear(min(xs), max(xs), left + 8, right - 8)

        def y(value: float) -> float:
            return place_y(scale(value))

        if chart.band:
            low, high = (min(max(end, min(xs)), max(xs)) for end in chart.band)
            canvas.rect((x(low) - 4, top), x(high) - x(low) + 8, _HEIGHT, "band")
        for mark in marks:
            canvas.line((left, y(mark)), (right, y(mark)), "grid")
            label = text.round_quantity(mark, chart.unit) if mark else "0"
            canvas.text(left - 6, y(mark) + 4, label, "tick", anchor="end")
        canvas.line((left, bottom), (right, bottom), "axis")
        taken = -math.inf
        for mark_x, label in chart.x_marks:
            place = x(mark_x)
            if min(xs) <= mark_x <= max(xs) and place - 3.6 * len(label) > taken:
                canvas.text(place, bottom + 16, label, "tick", anchor="middle")
                taken = place + 3.6 * len(label) + 4
        canvas.text((left + right) / 2, bottom + 34, chart.x_label, "tick", anchor="middle")
        for curve in chart.curves:
            places = [(x(a), y(b)) for a, b in curve.points]
            steps = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
            canvas.path(steps, f"{curve.style} curve" + (" cut" if curve.dashed else ""))
            for (a, b), (dot_x, dot_y) in zip(curve.points, places, strict=True):
                if not curve.dashed:
                    tooltip = f"{curve.name}: {text.quantity(b, chart.unit)} at {a:g}"
                    canvas.dot(dot_x, dot_y, f"{curve.style} dot", tooltip)
        canvas.height = bottom + 42
        return canvas

    return at_width
