from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import figures, svg, text
from tests.reports.page import parse


@given(st.floats(1e-9, 1e12))
def test_ticks_enclose_the_range(high: float) -> None:
    marks = svg.ticks(high)
    assert marks[0] == 0
    assert marks[-1] >= high * 0.999999
    assert 2 <= len(marks) <= 7


@given(st.floats(1e-6, 1e9), st.floats(1, 1e6))
def test_log_ticks_enclose_the_range(low: float, ratio: float) -> None:
    marks = svg.log_ticks(low, low * ratio)
    assert marks[0] <= low
    assert marks[-1] >= low * ratio * 0.999999
    assert 2 <= len(marks) <= 10
    assert marks == sorted(marks)


@pytest.mark.parametrize("high", [0.0, -1.0, math.nan])
def test_ticks_of_empty_range(high: float) -> None:
    assert svg.ticks(high) == [0.0, 1.0]


def _geometry(html: str) -> list[float]:
    return [float(x) for x in re.findall(r' (?:x|x1|x2|cx|width)="([^"]+)"', html)]


@pytest.mark.parametrize(
    "draw",
    [
        figures.stacked("t", "d", [figures.Bar("boot 1", {"a": 1.0, "b": 2.0})], "s"),
        figures.stacked("t", "d", [figures.Bar("boot 1", {"a": 0.0})], "s"),
        figures.intervals("t", "d", [figures.Dot("x", 5.0, (4.0, 6.0), "h")], "ns"),
        figures.intervals("t", "d", [figures.Dot("x", 5.0, None, "h")], "ns"),
        figures.pairs("t", "d", [figures.Pair("x", 5.0, 9.0, "+80 %")], "IOPS"),
        figures.areas(
            "t", "d", figures.StackedSeries([0, 1], {"a": [1, 2], "b": [3, 0]}, 100, "%")
        ),
        figures.areas(
            "t", "d", figures.StackedSeries([0, 1, 2, 90, 91], {"a": [1, 2, 3, 4, 5]}, 100, "%")
        ),
        figures.areas("t", "d", figures.StackedSeries([0, 0], {"a": [0, 0]}, 0, "%")),
    ],
)
def test_shapes_are_inside_the_image(draw: Any) -> None:
    figure = figures.figure("c", draw)
    for html, width in ((figure.wide, svg.WIDE), (figure.narrow, svg.NARROW)):
        parse(html)
        assert "nan" not in html
        assert all(0 <= x <= width for x in _geometry(html))


def test_texts_are_escaped() -> None:
    canvas = svg.Canvas(100, "<b>", "&")
    canvas.text(0, 0, "<script>", '"')
    canvas.rect((0, 0), 1, 1, "s1", "<i>")
    assert {e.tag for e in parse(canvas.render()).everything()} <= {
        *("document", "svg", "title", "desc", "text", "rect"),
    }


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (text.number(0.0004071), "0.000407"),
        (text.number(12345.6), "12,346"),
        (text.number(-3.14159), "−3.14"),
        (text.number(math.nan), "–"),
        (text.time(7612.0, "us"), "7.61 ms"),
        (text.time(0.5, "ns"), "0.500 ns"),
        (text.percent(0.123), "12 %"),
        (text.percent(0.0123), "1.2 %"),
        (text.time_interval(135_850, 142_185, "ns"), "136 to 142 µs"),
        (text.time_interval(math.nan, 1, "ns"), "–"),
        (text.round_quantity(200_000, "ns"), "200 µs"),
        (text.round_quantity(15_000, "IOPS"), "15,000 IOPS"),
        (text.setting({"depth": 1, "bs": "4k", "rw": "randread"}), "randread 4k, depth 1"),
        (text.setting({"bs": 4096, "rw": "randread"}), "randread 4k"),
        (text.setting({"bs": 512}), "512"),
        (text.percent(16.92), "1,692 %"),
        (text.count(1, "boot"), "1 boot"),
        (text.count(2, "boot"), "2 boots"),
    ],
)
def test_number_formats(actual: str, expected: str) -> None:
    assert actual == expected


def test_areas_have_a_hole_where_nothing_was_measured() -> None:
    def polygons(seconds: list[float]) -> int:
        series = figures.StackedSeries(seconds, {"a": [1.0] * len(seconds)}, 100, "%")
        html = figures.figure("c", figures.areas("t", "d", series)).wide
        return html.count('class="s1 area"')

    assert polygons([0, 1, 2, 3, 4]) == 1
    assert polygons([0, 1, 2, 60, 61]) == 2
