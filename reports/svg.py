"""A very small SVG writer: shapes with classes (colours are the page's CSS), axes, nice ticks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

WIDE, NARROW = 1040, 330
_ids = itertools.count(1)


class Canvas:
    """An inline SVG image with title and description for those who cannot see it.

    width: in user units; the page shows it at this width or less. The height may grow as shapes
    are added: set `height` before `render`.
    """

    def __init__(self, width: float, title: str, description: str) -> None:
        self.width = width
        self.height = 0.0
        self._title = title
        self._description = description
        self._parts: list[str] = []

    def rect(
        self, corner: tuple[float, float], width: float, height: float, style: str, hint: str = ""
    ) -> None:
        x, y = corner
        place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
        self._add("rect", style, place, hint)

    def line(self, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
        (x1, y1), (x2, y2) = start, end
        self._add("line", style, f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"')

    def dot(self, x: float, y: float, style: str, hint: str = "") -> None:
        self._add("circle", style, f'cx="{x:.1f}" cy="{y:.1f}" r="5"', hint)

    def area(self, points: Sequence[tuple[float, float]], style: str, hint: str = "") -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._add("polygon", style, f'points="{path}"', hint)

    def path(self, steps: str, style: str, hint: str = "") -> None:
        """steps: of our own making, never text from data."""
        self._add("path", style, f'd="{escape(steps)}"', hint)

    def _add(self, tag: str, style: str, place: str, hint: str = "") -> None:
        inner = f"<title>{escape(hint)}</title>" if hint else ""
        self._parts.append(f'<{tag} class="{escape(style)}" {place}>{inner}</{tag}>')

    def text(self, x: float, y: float, text: str, style: str, *, anchor: str = "start") -> None:
        self._parts.append(
            f'<text class="{escape(style)}" x="{x:.1f}" y="{y:.1f}" '
            f'text-anchor="{anchor}">{escape(text)}</text>'
        )

    def render(self) -> Markup:
        """The <svg> element, its texts escaped; ids are unique in the process."""
        name = f"svg{next(_ids)}"
        head = (
            f'<svg viewBox="0 0 {self.width:.0f} {self.height:.0f}" width="{self.width:.0f}" '
            f'role="img" aria-labelledby="{name}t {name}d">'
            f'<title id="{name}t">{escape(self._title)}</title>'
            f'<desc id="{name}d">{escape(self._description)}</desc>'
        )
        # every part was escaped when it was added
        return Markup(head + "".join(self._parts) + "</svg>")  # noqa: S704


def ticks(high: float, count: int = 5) -> list[float]:
    """0 and round steps (1, 2, 5 times a power of ten) up to the first at or above `high`."""
    if not high > 0:
        return [0.0, 1.0]
    rough = high / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    return [step * i for i in range(math.ceil(high / step - 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round values on a logarithmic axis that enclose positive low..high, with air at both ends.

    Powers of ten; 1, 2 and 5 of each power when that is less than two powers.
    """
    low, high = low / 1.1, high * 1.1
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    marks = [m * 10.0**power for power in range(first, last + 1) for m in steps]
    start = max(i for i, mark in enumerate(marks) if mark <= low)
    end = min(i for i, mark in enumerate(marks) if mark >= high)
    return marks[start : end + 1]


def linear(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """A scale from data low..high to places start..end."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def legend(canvas: Canvas, entries: Sequence[tuple[str, str]], y: float) -> float:
    """Swatch and name for each (style, name), wrapped; returns the y below."""
    x = 0.0
    for style, name in entries:
        width = 22 + 7.2 * len(name)
        if x and x + width > canvas.width:
            x, y = 0.0, y + 20
        canvas.rect((x, y), 12, 12, style)
        canvas.text(x + 17, y + 10.5, name, "label")
        x += width + 12
    return y + 26
