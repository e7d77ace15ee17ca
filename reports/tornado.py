"""A tornado: how far a result moves when each assumption is at its low and its high value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reports import svg, text
from reports.figures import Axis

_LETTER = 7.4
_VALUE_LETTER = 7.0
_BAR = 18.0


@dataclass(frozen=True)
class Swing:
    """The result at both values of an assumption. All numbers must be finite."""

    label: str
    low_value: str
    high_value: str
    low: float
    high: float


def tornado(
    title: str, description: str, swings: Sequence[Swing], base: float, unit: str
) -> Callable[[float], svg.Canvas]:
    """Bars to both sides of the base, in the order given. The axis need not begin at 0."""
    results = [base, *(end for swing in swings for end in (swing.low, swing.high))]

    def draw(width: float) -> svg.Canvas:
        canvas = svg.Canvas(width, title, description)
        narrow = width < 500
        names = [("s1", "assumption at its low value"), ("s2", "at its high value")]
        top = svg.legend(canvas, names, 0)
        words = max(len(end) for swing in swings for end in (swing.low_value, swing.high_value))
        margin = 12 + _VALUE_LETTER * min(words, 14)
        left = margin + (0.0 if narrow else 12 + _LETTER * max(len(one.label) for one in swings))
        marks = _marks(min(results), max(results), 3 if narrow else 6)
        place = svg.linear(marks[0], marks[-1], left, width - margin)
        row = 46.0 if narrow else 30.0
        bottom = top + row * len(swings)
        for mark in marks:
            canvas.line((place(mark), top), (place(mark), bottom), "grid")
            label = text.round_quantity(mark, unit if mark == marks[-1] else "")
            anchor = "end" if mark == marks[-1] else "middle"
            canvas.text(place(mark), bottom + 16, label, "tick", anchor=anchor)
        for number, swing in enumerate(swings):
            y = top + row * number + (row - _BAR - 4)
            if narrow:
                canvas.text(0, y - 6, swing.label, "label strong")
            else:
                canvas.text(left - margin, y + 13, swing.label, "label", anchor="end")
            _bars(canvas, swing, Axis([base], place, unit), y)
        canvas.line((place(base), top), (place(base), bottom), "range")
        canvas.height = bottom + 24
        return canvas

    return draw


def _marks(low: float, high: float, count: int) -> list[float]:
    """Round values that enclose the range."""
    step = svg.ticks((high - low) or abs(high) or 1.0, count)[1]
    first, last = math.floor(low / step), math.ceil(high / step)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


def _bars(canvas: svg.Canvas, swing: Swing, axis: Axis, y: float) -> None:
    """Both bars from the axis' only mark, the longer one first, and at their ends the values."""
    (base,), place, unit = axis.marks, axis.place, axis.unit
    ends = [(swing.low, swing.low_value, "s1"), (swing.high, swing.high_value, "s2")]
    for result, value, style in sorted(ends, key=lambda one: -abs(one[0] - base)):
        start, end = sorted((place(base), place(result)))
        tooltip = f"{swing.label} {value}: {text.round_quantity(result, unit)}"
        canvas.rect((start, y), end - start, _BAR, f"{style} part", tooltip)
    by_result = sorted(ends, key=lambda one: one[0])
    if swing.low == swing.high:
        canvas.text(place(swing.high) + 7, y + 13, "no effect", "value small")
        return
    for (result, value, _), (anchor, gap) in zip(
        by_result, (("end", -7), ("start", 7)), strict=True
    ):
        edge = min(place(result), place(base)) if gap < 0 else max(place(result), place(base))
        label = text.truncated(value, 14)
        canvas.text(edge + gap, y + 13, label, "value small", anchor=anchor)
