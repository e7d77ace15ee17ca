"""The figures of the reports. Each is drawn twice: wide, and narrow for telephones."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from reports import svg, text

ROW = 24.0
GAP = 5


@dataclass(frozen=True)
class Figure:
    """A figure of the page: a caption with n, boots and backend, and two drawings."""

    caption: str
    wide: Markup
    narrow: Markup


def figure(caption: str, draw: Callable[[float], svg.Canvas]) -> Figure:
    return Figure(caption, draw(svg.WIDE).render(), draw(svg.NARROW).render())


@dataclass(frozen=True)
class Bar:
    """A stacked bar: its label, and the length of each part in the order of the legend."""

    label: str
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Dot:
    """A median with its interval (None without one)."""

    label: str
    value: float
    interval: tuple[float, float] | None
    tooltip: str


@dataclass(frozen=True)
class Pair:
    """A figure of the host and of the guest, with a note about the difference."""

    label: str
    host: float
    guest: float
    note: str


@dataclass(frozen=True)
class StackedSeries:
    """Values of stacked parts over time. high: minimum for the upper end of the axis."""

    seconds: Sequence[float]
    parts: Mapping[str, Sequence[float]]
    high: float
    unit: str


@dataclass(frozen=True)
class Axis:
    marks: Sequence[float]
    place: Callable[[float], float]
    unit: str


def stacked(
    title: str, description: str, bars: Sequence[Bar], unit: str
) -> Callable[[float], svg.Canvas]:
    """Horizontal stacked bars from 0, with the sum at the end of each."""

    def draw(width: float) -> svg.Canvas:
        canvas = svg.Canvas(width, title, description)
        names = list(dict.fromkeys(name for bar in bars for name in bar.parts))
        styles = {name: f"s{i + 1}" for i, name in enumerate(names)}
        top = svg.legend(canvas, [(styles[name], name) for name in names], 0)
        left, right = 64.0, width - 62
        marks = svg.ticks(max(sum(bar.parts.values()) for bar in bars), 5 if width > 500 else 3)
        scale = svg.linear(0, marks[-1], left, right)
        bottom = top + ROW * len(bars)
        draw_grid(canvas, Axis(marks, scale, unit), top, bottom)
        for i, bar in enumerate(bars):
            y, at = top + ROW * i, 0.0
            canvas.text(left - 8, y + 16, bar.label, "label", anchor="end")
            for name, length in bar.parts.items():
                tooltip = f"{bar.label}: {name} {text.quantity(length, unit)}"
                start, end = scale(at), scale(at + length)
                canvas.rect((start, y + 3), end - start, ROW - 7, f"{styles[name]} part", tooltip)
                at += length
            canvas.text(scale(at) + 6, y + 16, text.quantity(at, unit), "value")
        return canvas

    return draw


def intervals(
    title: str, description: str, dots: Sequence[Dot], unit: str
) -> Callable[[float], svg.Canvas]:
    """Medians as dots with intervals, on a logarithmic axis. Values must be above 0."""

    def draw(width: float) -> svg.Canvas:
        canvas = svg.Canvas(width, title, description)
        narrow = width < 500
        left = 16.0 if narrow else 12 + 7.4 * max(len(dot.label) for dot in dots)
        lows = [
            min(dot.value, *(dot.interval or ())) if dot.interval else dot.value for dot in dots
        ]
        highs = [
            max(dot.value, *(dot.interval or ())) if dot.interval else dot.value for dot in dots
        ]
        marks = svg.log_ticks(max(min(lows), 1e-3), max(highs))
        place = svg.linear(_log(marks[0]), _log(marks[-1]), left, width - (60 if narrow else 90))
        row = 42.0 if narrow else 30.0
        bottom = 6 + row * len(dots)
        draw_grid(canvas, Axis(marks, lambda value: place(_log(value)), unit), 0, bottom)
        for i, dot in enumerate(dots):
            y = row * (i + 1) - (8 if narrow else 12) + 2
            if narrow:
                canvas.text(left + 5, y - 13, dot.label, "label")
            else:
                canvas.text(left - 10, y + 4, dot.label, "label", anchor="end")
            if dot.interval:
                low, high = (place(_log(max(end, marks[0]))) for end in dot.interval)
                canvas.line((low, y), (high, y), "whisker")
                canvas.line((low, y - 5), (low, y + 5), "whisker")
                canvas.line((high, y - 5), (high, y + 5), "whisker")
            canvas.dot(place(_log(dot.value)), y, "s1 dot", dot.tooltip)
            edge = place(_log(max(highs[i], dot.value)))
            canvas.text(edge + 11, y + 4, text.quantity(dot.value, unit), "value")
        return canvas

    return draw


def pairs(
    title: str, description: str, rows: Sequence[Pair], unit: str
) -> Callable[[float], svg.Canvas]:
    """A bar of the host above a bar of the guest, for each setting."""

    def draw(width: float) -> svg.Canvas:
        canvas = svg.Canvas(width, title, description)
        top = svg.legend(canvas, [("s2", "host"), ("s1", "guest")], 0)
        right = width - (170 if width > 500 else 132)
        marks = svg.ticks(max(max(row.host, row.guest) for row in rows), 5 if width > 500 else 2)
        scale = svg.linear(0, marks[-1], 4, right)
        height = 62.0
        bottom = top + height * len(rows)
        draw_grid(canvas, Axis(marks, scale, unit), top, bottom)
        for i, row in enumerate(rows):
            y = top + height * i
            canvas.text(8, y + 13, row.label, "label strong")
            for j, (name, value, style) in enumerate(
                (("host", row.host, "s2"), ("guest", row.guest, "s1"))
            ):
                tooltip = f"{row.label}, {name}: {text.quantity(value, unit)}"
                bar = y + 19 + 18 * j
                canvas.rect((4, bar), scale(value) - 4, 15, f"{style} part", tooltip)
                note = f" ({row.note})" if name == "guest" and row.note else ""
                short = text.quantity(value, unit) + note
                canvas.text(scale(value) + 6, bar + 12, short, "value")
        return canvas

    return draw


def areas(title: str, description: str, series: StackedSeries) -> Callable[[float], svg.Canvas]:
    """Stacked areas over time; the upper end of the axis is at least `series.high`."""
    seconds, unit = series.seconds, series.unit

    def draw(width: float) -> svg.Canvas:
        canvas = svg.Canvas(width, title, description)
        top = svg.legend(canvas, [(f"s{i + 1}", name) for i, name in enumerate(series.parts)], 0)
        marks = svg.ticks(series.high, 4)
        left, right, bottom = 52.0, width - 10, top + 170
        x = svg.linear(seconds[0], seconds[-1], left, right)
        y = svg.linear(0, marks[-1], bottom, top)
        for mark in marks:
            canvas.line((left, y(mark)), (right, y(mark)), "grid")
            canvas.text(left - 6, y(mark) + 4, f"{text.number(mark, 2)}", "tick", anchor="end")
        canvas.text(left + 4, top - 4 + 12, unit, "tick")
        stack(canvas, series, x, y)
        canvas.line((left, bottom), (right, bottom), "axis")
        for mark in svg.ticks(seconds[-1] - seconds[0], 6 if width > 500 else 3):
            if seconds[0] + mark <= seconds[-1]:
                place = x(seconds[0] + mark)
                anchor = "start" if mark == 0 else "end" if place > right - 20 else "middle"
                canvas.text(place, bottom + 16, f"{text.number(mark, 1)} s", "tick", anchor=anchor)
        canvas.height = bottom + 24
        return canvas

    return draw


def stack(
    canvas: svg.Canvas,
    series: StackedSeries,
    x: Callable[[float], float],
    y: Callable[[float], float],
) -> None:
    """The areas of a series, one above the other."""
    seconds = series.seconds
    pieces = without_gaps(seconds)
    floor = [0.0] * len(seconds)
    for i, (name, values) in enumerate(series.parts.items()):
        roof = [below + value for below, value in zip(floor, values, strict=True)]
        for piece in pieces:
            outline = [(x(seconds[at]), y(roof[at])) for at in piece]
            outline += [(x(seconds[at]), y(floor[at])) for at in reversed(piece)]
            canvas.area(outline, f"s{i + 1} area", name)
        floor = roof


def without_gaps(seconds: Sequence[float]) -> list[range]:
    """The indices of each stretch of ticks: nothing is drawn where nothing was measured.

    A gap is GAP times the median distance of ticks, as when a host is replaced by another one.
    """
    steps = [after - before for before, after in pairwise(seconds)]
    longest = GAP * statistics.median(steps)
    starts = [0, *(at + 1 for at, step in enumerate(steps) if step > longest), len(seconds)]
    return [range(start, end) for start, end in pairwise(starts)]


def draw_grid(canvas: svg.Canvas, axis: Axis, top: float, bottom: float) -> None:
    """Vertical lines with labels below them; sets the height of the canvas."""
    taken = -math.inf
    for i, mark in enumerate(axis.marks):
        x = axis.place(mark)
        canvas.line((x, top), (x, bottom), "axis" if i == 0 else "grid")
        label = "0" if mark == 0 else text.round_quantity(mark, axis.unit)
        if x - 3.4 * len(label) > taken:  # omit a label that would overlap its neighbour
            canvas.text(x, bottom + 16, label, "tick", anchor="middle")
            taken = x + 3.4 * len(label) + 4
    canvas.height = bottom + 26


def _log(value: float) -> float:
    return math.log10(value)
