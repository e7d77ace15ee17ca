"""A heat map: a row of cells for each thing, shaded by a share of what it may use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from reports import svg, text

# the upper end of each shade; the style sheet has a class for each, and one for more
SHADES = (0.2, 0.4, 0.6, 0.8, 1.0)
_TOLERANCE = 1e-3  # a full host is not above 100 % by rounding
_ROW = 14.0
_LETTER = 7.0
_RIGHT = 42.0  # room for the value after each row
_BAND_GAP = 26.0  # above the second group of rows, with its title


@dataclass(frozen=True)
class Row:
    """Cells from left to right; NaN is an empty cell. value: text after the row."""

    label: str
    cells: Sequence[float]
    value: str
    tooltip: str


@dataclass(frozen=True)
class HeatMap:
    """Rows of the same length. others: a second group of rows below the first one, under
    `others_title`. groups: the columns' labels from left to right, for equal numbers of columns."""

    title: str
    description: str
    rows: Sequence[Row]
    groups: Sequence[str]
    others: Sequence[Row] = ()
    others_title: str = ""


@dataclass(frozen=True)
class _Grid:
    """left: of the cells. column: the width of one. labels: most characters of a row's label."""

    left: float
    column: float
    right: float
    labels: int


def draw(heat: HeatMap) -> Callable[[float], svg.Canvas]:
    """The heat map at a width."""
    count = max(len(row.cells) for row in heat.rows)
    shades = {_shade(cell) for row in (*heat.rows, *heat.others) for cell in row.cells}

    def at_width(width: float) -> svg.Canvas:
        canvas = svg.Canvas(width, heat.title, heat.description)
        top = svg.legend(canvas, _legend(len(SHADES) in shades), 0)
        longest = max(len(row.label) for row in (*heat.rows, *heat.others))
        room = 12 + _LETTER * min(longest, 24 if width > 500 else 10)
        # Steps of a quarter of a unit keep the path short and the cells equally wide.
        column = math.floor((width - room - _RIGHT) / count * 4) / 4
        left = width - _RIGHT - column * count
        grid = _Grid(left, column, left + column * count, int((left - 8) / _LETTER))
        _group_labels(canvas, heat.groups, grid, top)
        top += 16
        y = _rows(canvas, heat.rows, grid, top)
        if heat.others:
            canvas.text(0, y + _BAND_GAP - 8, heat.others_title, "label strong")
            y = _rows(canvas, heat.others, grid, y + _BAND_GAP)
        for number in range(1, len(heat.groups)):
            x = grid.left + number * count / len(heat.groups) * column
            canvas.line((x, top - 4), (x, y), "moment")
        canvas.height = y + 6
        return canvas

    return at_width


def _legend(with_over: bool) -> list[tuple[str, str]]:
    ends = [f"{100 * end:.0f}" for end in SHADES]
    names = [f"below {ends[0]} %"]
    names += [f"{low} to {high} %" for low, high in pairwise(ends)]
    names += [f"above {ends[-1]} %"] if with_over else []
    return [(f"cells heat{number}", name) for number, name in enumerate(names)]


def _shade(share: float) -> int | None:
    if not math.isfinite(share):
        return None
    return sum(share > end + _TOLERANCE for end in SHADES)


def _group_labels(canvas: svg.Canvas, groups: Sequence[str], grid: _Grid, top: float) -> None:
    wide = (grid.right - grid.left) / len(groups)
    for number, label in enumerate(groups):
        middle = grid.left + wide * (number + 0.5)
        canvas.text(middle, top + 8, label, "tick", anchor="middle")


def _rows(canvas: svg.Canvas, rows: Sequence[Row], grid: _Grid, top: float) -> float:
    """Draw rows, one path for each shade; return the y below them."""
    paths: dict[int, list[str]] = {}
    for number, row in enumerate(rows):
        y = top + _ROW * number
        for shade, start, length in _runs(row.cells):
            x, wide = grid.left + start * grid.column, length * grid.column
            path = f"M{x:g} {y:g}h{wide:g}v{_ROW - 1:g}h-{wide:g}z"
            paths.setdefault(shade, []).append(path)
    for shade, steps in sorted(paths.items()):
        canvas.path("".join(steps), f"cells heat{shade}")
    for number, row in enumerate(rows):
        y = top + _ROW * number
        label = text.shortened(row.label, grid.labels)
        canvas.text(grid.left - 6, y + 11, label, "small", anchor="end")
        canvas.text(grid.right + 5, y + 11, row.value, "small")
        canvas.rect((grid.left, y), grid.right - grid.left, _ROW - 1, "hover", row.tooltip)
    return top + _ROW * len(rows)


def _runs(cells: Sequence[float]) -> Iterator[tuple[int, int, int]]:
    """Shade, first column and number of columns of each run of equal cells."""
    start = 0
    for shade, run in groupby(cells, _shade):
        length = sum(1 for _ in run)
        if shade is not None:
            yield shade, start, length
        start += length
