"""Bars of a few sides: values with their ranges, and panels that share their rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reports import svg, text
from reports.figures import ROW, Axis, Bar, draw_grid

_TITLE = 22.0  # height of a panel's title


@dataclass(frozen=True)
class Ranged:
    """A value with its range. note: shown after the value."""

    label: str
    value: float
    low: float
    high: float
    note: str = ""


@dataclass(frozen=True)
class Panel:
    """Stacked bars on an axis of their own. Rows are shared between panels.

    styles: of the parts, in their order; a part with the panel's title needs no legend. high:
    minimum for the upper end of the axis. share: of the width, where panels are beside each other.
    show: a value with its unit.
    """

    title: str
    bars: Sequence[Bar]
    unit: str
    styles: Mapping[str, str]
    high: float = 0.0
    share: float = 1.0
    show: Callable[[float, str], str] = text.quantity

    @property
    def marks(self) -> list[float]:
        longest = max((sum(bar.parts.values()) for bar in self.bars), default=0.0)
        return svg.ticks(max(longest, self.high), 4)


def ranged(
    title: str, description: str, rows: Sequence[Ranged], unit: str
) -> Callable[[float], svg.Canvas]:
    """A bar for each value, with a whisker over its range, on an axis from 0."""

    def draw(width: float) -> svg.Canvas:
        canvas = svg.Canvas(width, title, description)
        narrow = width < 500
        left = 6.0 if narrow else 14 + 7.4 * max(len(row.label) for row in rows)
        right = width - (60 if narrow else 210)
        marks = svg.ticks(max(max(row.value, row.high) for row in rows), 3 if narrow else 5)
        place = svg.linear(0, marks[-1], left, right)
        row_height = 64.0 if narrow else 40.0
        bottom = row_height * len(rows)
        draw_grid(canvas, Axis(marks, place, ""), 0, bottom)
        for number, row in enumerate(rows):
            y = row_height * number + (28 if narrow else 9)
            value = f"{row.value:g}{row.note}"
            if narrow:
                canvas.text(left + 4, y - 8, f"{row.label}: {value}", "value strong")
            else:
                canvas.text(left - 10, y + 16, row.label, "label", anchor="end")
            tooltip = f"{row.label}: {row.value:g} {unit}, range {row.low:g} to {row.high:g}"
            canvas.rect((left, y), place(row.value) - left, 22, "s1 part", tooltip)
            low, high = place(row.low), place(row.high)
            if high > low:
                canvas.line((low, y + 11), (high, y + 11), "range")
                for end in (low, high):
                    canvas.line((end, y + 4), (end, y + 18), "range")
            if not narrow:
                edge = max(place(row.value), high)
                canvas.text(edge + 9, y + 16, value, "value strong")
        return canvas

    return draw


def panels(title: str, description: str, parts: Sequence[Panel]) -> Callable[[float], svg.Canvas]:
    """Panels beside each other, or one below the other on a narrow page."""

    def draw(width: float) -> svg.Canvas:
        canvas = svg.Canvas(width, title, description)
        entries = [
            (style, name)
            for panel in parts
            for name, style in panel.styles.items()
            if name != panel.title
        ]
        top = svg.legend(canvas, entries, 0) if entries else 4.0
        narrow = width < 500
        total = sum(panel.share for panel in parts)
        start, bottom = 0.0, top
        for panel in parts:
            room = width if narrow else width * panel.share / total
            bottom = _draw_panel(canvas, panel, (start, start + room), top)
            if narrow:
                top = bottom + 6
            else:
                start += room
        canvas.height = bottom
        return canvas

    return draw


def _draw_panel(canvas: svg.Canvas, panel: Panel, span: tuple[float, float], top: float) -> float:
    """Draw one panel; return the y below it. A bar without parts was not measured."""
    left, right = span[0] + 64, span[1] - 66
    canvas.text(left, top + 10, panel.title, "label strong")
    top += _TITLE
    scale = svg.linear(0, panel.marks[-1], left, right)
    draw_grid(canvas, Axis(panel.marks, scale, panel.unit), top, top + ROW * len(panel.bars))
    for number, bar in enumerate(panel.bars):
        y, at = top + ROW * number, 0.0
        canvas.text(left - 8, y + 16, bar.label, "label", anchor="end")
        for name, length in bar.parts.items():
            tooltip = f"{bar.label}: {name} {panel.show(length, panel.unit)}"
            begin, end = scale(at), scale(at + length)
            style = f"{panel.styles[name]} part"
            canvas.rect((begin, y + 3), end - begin, ROW - 7, style, tooltip)
            at += length
        shown = panel.show(at, panel.unit) if bar.parts else text.NONE
        canvas.text(scale(at) + 6, y + 16, shown, "value")
    return top + ROW * len(panel.bars) + 26


def spaced(values: Sequence[float], most: int, required: Sequence[float] = ()) -> list[float]:
    """At most `most` of ascending values at equal distances; the ends and those required stay."""
    if len(values) <= most:
        return list(values)
    always = [one for one in required if one in values]
    count = max(2, most - len(always))
    step = (len(values) - 1) / (count - 1)
    even = {values[math.floor(at * step + 0.5)] for at in range(count)}
    return sorted({*even, *always})
