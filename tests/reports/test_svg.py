from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import bars, curves, figures, lanes, svg, text
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


UNANSWERED = curves.Curve("p99", [(1.0, 5.0), (2.0, math.inf)], "s2")
TIMELINE = lanes.Timeline(
    end=60.0,
    spans=[lanes.Span(0.0, 50.0, "1 ✓", "good", "1 tile")],
    spans_title="Points",
    areas=figures.StackedSeries([0, 30, 60], {"a": [1, 2, 3]}, 100, "%"),
    areas_title="CPU",
    lanes=[
        lanes.Lane(
            "Guests",
            [0, 59],
            [1, 2],
            "s1",
            steps=True,
            events=[
                lanes.Event(59, 2, "a guest with a long name ended", "v-regressed part", up=False),
                lanes.Event(1, 1, "+1", "s3 part", up=True),
            ],
        )
    ],
)


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
        bars.ranged("t", "d", [bars.Ranged("kvm", 5.0, 4.0, 9.0), bars.Ranged("x", 0, 0, 0)], "n"),
        bars.panels(
            "t",
            "d",
            [
                bars.Panel(
                    "A", [figures.Bar("1", {"a": 1.0, "b": 2.0})], "%", {"a": "s1", "b": "s2"}
                ),
                bars.Panel("B", [figures.Bar("1", {})], "%", {"c": "s5"}, high=100),
            ],
        ),
        lanes.draw("t", "d", TIMELINE),
        lanes.draw("t", "d", dataclasses.replace(TIMELINE, end=9000.0, areas=None, lanes=[])),
        curves.draw(curves.Chart("t", "d", [UNANSWERED], "ms", "tiles", logarithmic=True)),
        curves.draw(
            curves.Chart("t", "d", [curves.Curve("c", [(1.0, math.inf)], "s1")], "ms", "tiles")
        ),
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


@given(st.integers(1, 200), st.integers(2, 30))
def test_spaced_values_keep_the_ends_and_those_required(count: int, most: int) -> None:
    values = [float(number) for number in range(count)]
    required = values[count // 2 : count // 2 + 1]
    shown = bars.spaced(values, most, required)
    assert shown == sorted(set(shown))
    assert {values[0], values[-1], *required} <= set(shown) <= set(values)
    assert len(shown) <= max(most, 3)


def test_value_without_an_answer_is_a_triangle_within_the_chart() -> None:
    chart = curves.Chart("t", "d", [UNANSWERED], "ms", "tiles", logarithmic=True)
    html = str(figures.figure("c", curves.draw(chart)).wide)
    assert "p99: no answer at 2" in html
    assert "inf" not in html
