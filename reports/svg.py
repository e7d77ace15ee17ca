"""A small SVG writer: shapes, scales, ticks, legends. The style sheet of the page sets colours."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

WIDE, NARROW = 1040, 330
_ids = itertools.count(1)


class Canvas:
    """An inline SVG image with a title and a description for screen readers.

    width: in user units; the page shows it at this width or less. height: set it before `render`.
    """

    def __init__(self, width: float, title: str, description: str) -> None:
        self.width = width
        self.height = 0.0
        self._title = title
        self._description = description
        self._parts: list[str] = []

    def rect(
        self,
        corner: tuple[float, float],
        width: float,
        height: float,
        style: str,
        tooltip: str = "",
    ) -> None:
        x, y = corner
        place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
        self._add("rect", style, place, tooltip)

    def line(self, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
        (x1, y1), (x2, y2) = start, end
        self._add("line", style, f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"')

    def dot(self, x: float, y: float, style: str, tooltip: str = "") -> None:
        self._add("circle", style, f'cx="{x:.1f}" cy="{y:.1f}" r="5"', tooltip)

    def area(self, points: Sequence[tuple[float, float]], style: str, tooltip: str = "") -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._add("polygon", style, f'points="{path}"', tooltip)

    def path(self, steps: str, style: str, tooltip: str = "") -> None:
        """steps: path commands; they must not contain text from data."""
        self._add("path", style, f'd="{escape(steps)}"', tooltip)

    def _add(self, tag: str, style: str, place: str, tooltip: str = "") -> None:
        inner = f"<title>{escape(tooltip)}</title>" if tooltip else ""
        self._parts.append(f'<{tag} class="{escape(style)}" {place}>{inner}</{tag}>')

    def text(self, x: float, y: float, text: str, style: str, *, anchor: str = "start") -> None:
        self._parts.append(
            f'<text class="{escape(style)}" x="{x:.1f}" y="{y:.1f}" '
            f'text-anchor="{anchor}">{escape(text)}</text>'
        )

    def render(self) -> Markup:
        """The <svg> element with escaped text; its ids are unique within the process."""
        name = f"svg{next(_ids)}"
        head = (
            f'<svg viewBox="0 0 {self.width:.0f} {self.height:.0f}" width="{self.width:.0f}" '
            f'role="img" aria-labelledby="{name}t {name}d">'
            f'<title id="{name}t">{escape(self._title)}</title>'
            f'<desc id="{name}d">{escape(self._description)}</desc>'
        )
        # every part is escaped when it is added
        return Markup(head + "".join(self._parts) + "</svg>")  # noqa: S704


def ticks(high: float, count: int = 5) -> list[float]:
    """Multiples of a round step (1, 2 or 5 times a power of ten) from 0 to at least `high`."""
    if not high > 0:
        return [0.0, 1.0]
    rough = high / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    return [step * i for i in range(math.ceil(high / step - 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round values of a logarithmic axis that enclose the positive range, with a margin.

    Powers of ten; also 2 and 5 times each power when the range is below two powers.
    """
    low, high = low / 1.1, high * 1.1
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    marks = [m * 10.0**power for power in range(first, last + 1) for m in steps]
    start = max(i for i, mark in enumerate(marks) if mark <= low)
    end = min(i for i, mark in enumerate(marks) if mark >= high)
    return marks[start : end + 1]


def linear(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """A linear scale from the data range low..high to the coordinates start..end."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def legend(canvas: Canvas, entries: Sequence[tuple[str, str]], y: float) -> float:
    """Draw a swatch and a name for each (style, name); return the y below the legend."""
    x = 0.0
    for style, name in entries:
        width = 22 + 7.2 * len(name)
        if x and x + width > canvas.width:
            x, y = 0.0, y + 20
        canvas.rect((x, y), 12, 12, style)
        canvas.text(x + 17, y + 10.5, name, "label")
        x += width + 12
    return y + 26
