"""A forest plot: effects with their intervals, one in each row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reports import svg, text

_LETTER_WIDTH = 6.9  # average


@dataclass(frozen=True)
class Effect:
    """The effect of one series: 0.2 is 20 % worse. low, high: NaN without an interval."""

    label: str
    effect: float
    low: float
    high: float
    verdict: str

    @property
    def text(self) -> str:
        interval = text.signed_interval(self.low, self.high)
        return text.signed(self.effect) + (f" ({interval})" if interval != text.NONE else "")


def forest(title: str, effects: Sequence[Effect]) -> Callable[[float], svg.Canvas]:
    """Draw finite effects. An effect beyond the end of the axis is an arrow; its value is printed
    in its row."""
    description = "; ".join(f"{one.label}: {one.text}, {one.verdict}" for one in effects)

    def draw(width: float) -> svg.Canvas:
        canvas = svg.Canvas(width, title, description)
        narrow = width < 500
        left = (
            16.0
            if narrow
            else 18 + _LETTER_WIDTH * max(len(text.truncated(e.label, 46)) for e in effects)
        )
        right = width - (16 if narrow else 206)
        styles = dict.fromkeys(one.verdict for one in effects)
        top = svg.legend(canvas, [(f"v-{name}", name) for name in styles], 0)
        row = 50.0 if narrow else 28.0
        bottom = top + row * len(effects)
        low, high = _axis_range(effects)
        place = svg.linear(low, high, left, right)
        _axis(canvas, place, _marks(low, high, 3 if narrow else 7), (top, bottom), low)
        for i, one in enumerate(effects):
            y = top + row * i + (34 if narrow else 14)
            label = text.truncated(one.label, 44)
            if narrow:
                canvas.text(0, y - 18, label, "label")
                canvas.text(width, y - 2, one.text, "value small", anchor="end")
            else:
                canvas.text(left - 12, y + 4, text.truncated(one.label, 46), "label", anchor="end")
                canvas.text(right + 18, y + 4, one.text, "value")
            _mark(canvas, one, y + (6 if narrow else 0), place, (low, high))
        return canvas

    return draw


def _axis_range(effects: Sequence[Effect]) -> tuple[float, float]:
    """The range of the axis: 0 and all effects, without outliers."""
    sizes = sorted(abs(one.effect) for one in effects)
    bound = max(5 * sizes[len(sizes) // 2], 2 * sizes[int(len(sizes) * 0.8) - 1], 0.1)
    ends = [end for one in effects for end in (one.effect, one.low, one.high) if math.isfinite(end)]
    low, high = max(min([*ends, 0.0]), -bound), min(max([*ends, 0.0]), bound)
    margin = 0.06 * (high - low or 1.0)
    return low - margin, high + margin


def _marks(low: float, high: float, count: int) -> list[float]:
    step = svg.ticks(high - low, count)[1]
    first, last = math.ceil(low / step), math.floor(high / step)
    return [step * i for i in range(first, last + 1)]


def _axis(
    canvas: svg.Canvas,
    place: Callable[[float], float],
    marks: Sequence[float],
    span: tuple[float, float],
    low: float,
) -> None:
    top, bottom = span
    for mark in marks:
        x = place(mark)
        canvas.line((x, top), (x, bottom), "grid" if abs(mark) > 1e-9 else "axis")
        label = "0" if abs(mark) < 1e-9 else f"{mark * 100:+.6g} %".replace("-", "−")
        canvas.text(x, bottom + 16, label, "tick", anchor="middle")
    zero = place(0)
    if low < 0:
        canvas.text(zero - 8, bottom + 34, "← better", "tick", anchor="end")
    canvas.text(zero + 8, bottom + 34, "worse →", "tick")
    canvas.height = bottom + 42


def _mark(
    canvas: svg.Canvas,
    one: Effect,
    y: float,
    place: Callable[[float], float],
    limits: tuple[float, float],
) -> None:
    """Draw one effect. The shape shows the verdict, so that colours are not needed."""
    style = f"v-{one.verdict}"
    if math.isfinite(one.low) and math.isfinite(one.high):
        low, high = (min(max(end, limits[0]), limits[1]) for end in (one.low, one.high))
        canvas.line((place(low), y), (place(high), y), f"whisker {style}")
        for end, bound, direction in ((one.low, limits[0], -1), (one.high, limits[1], 1)):
            if end * direction > bound * direction:
                _arrow(canvas, place(bound), y, direction, style)
            elif limits[0] <= end <= limits[1]:
                canvas.line((place(end), y - 5), (place(end), y + 5), f"whisker {style}")
    tooltip = f"{one.label}: {one.text}, {one.verdict}"
    if not limits[0] <= one.effect <= limits[1]:
        direction = 1 if one.effect > 0 else -1
        _arrow(canvas, place(limits[direction > 0]), y, direction, style)
        return
    x = place(one.effect)
    if one.verdict == "improved":
        canvas.rect((x - 5, y - 5), 10, 10, f"{style} dot", tooltip)
    else:
        canvas.dot(x, y, f"{style} dot", tooltip)


def _arrow(canvas: svg.Canvas, x: float, y: float, direction: int, style: str) -> None:
    canvas.area(
        [(x + 7 * direction, y), (x - 2 * direction, y - 6), (x - 2 * direction, y + 6)], style
    )
