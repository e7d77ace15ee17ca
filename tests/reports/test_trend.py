from __future__ import annotations

import base64
import dataclasses
import gzip
import io
import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.time_series import spark, thinned
from reports.trend import render, to_html
from tests.reports import histories
from tests.reports.checks import HOSTILE, checked_page
from tests.reports.page import Element, parse


@pytest.fixture(scope="module")
def page() -> Element:
    return checked_page(to_html(histories.make_history()))


def test_key_figures(page: Element) -> None:
    texts = {card.all("dt")[0].text: card.text for card in page.id("key").all("div")}
    assert set(texts) == {"Largest regression", "Regressed", "Improved", "Inconclusive", "Pass"}
    assert "io.clat.1 depth 1 on kvm: from 500 µs to 600 µs" in texts["Largest regression"]


def test_changes_are_listed_newest_first(page: Element) -> None:
    (table,) = page.id("changes").all("table")
    texts = [[cell.text for cell in row.all("td")] for row in table.all("tbody")[0].all("tr")]
    assert [row[0] for row in texts] == ["26 Jan 2026", "22 Jan 2026", "22 Jan 2026"]
    assert texts[0][1] == "+20 %"
    assert ".." in texts[0][3]
    assert texts[0][4] == "kernel: 6.1.0-1 → 6.1.0-0-synthetic"
    assert [row[5] for row in texts] == ["–", "–", "a new kernel"]


def test_charts_show_regressions_and_improvements(page: Element) -> None:
    figures = page.id("charts").all("figure")
    assert len(figures) == 2
    assert "regressed, +20 %" in figures[0].text
    assert "worse from 26 Jan 2026" in figures[0].all("desc")[0].text
    for drawing in figures[0].all("svg"):
        paths = [path.attributes for path in drawing.all("path")]
        assert sum(path["class"] == "level" for path in paths) == 2
        assert sum(path["class"] == "c-bad cut" for path in paths) == 1
        (points,) = (path["d"] for path in paths if path["class"] == "points")
        assert points.count("M") == 40


def test_each_series_has_a_row_with_a_sparkline(page: Element) -> None:
    (table,) = page.id("series").all("table")
    body = table.all("tbody")[0].all("tr")
    assert len(body) == 8
    assert all(len(row.all("svg")) == 1 for row in body)
    labels = [row.all("svg")[0].attributes["aria-label"] for row in body]
    assert labels[0] == "worse from 26 Jan 2026"
    assert labels.count("no change") == 5


def test_raw_data_contain_all_points(tmp_path: Path) -> None:
    tracked = histories.make_history()
    page = parse(render(tracked, tmp_path / "page.html").read_text(encoding="utf-8"))
    packed = base64.b64decode(page.id("download").attributes["href"].split(",")[1])
    csv = pd.read_csv(io.BytesIO(gzip.decompress(packed)))
    assert csv["value"].tolist() == pytest.approx(tracked.points["value"].tolist(), rel=1e-5)
    assert csv["run"].tolist() == tracked.points["run"].tolist()


@pytest.mark.slow
def test_page_with_hundreds_of_series_stays_small() -> None:
    page = checked_page(to_html(histories.make_history(500, 120)))
    assert len(page.id("charts").all("figure")) == 20
    assert "more are in the table of all figures" in page.id("charts").text
    packed = base64.b64decode(page.id("download").attributes["href"].split(",")[1])
    assert len(pd.read_csv(io.BytesIO(gzip.decompress(packed)))) == 500, "a row a series"


@pytest.mark.slow
def test_too_many_points_are_reported() -> None:
    page = checked_page(to_html(histories.make_history(800, 180)))
    assert "page cannot hold all" in page.id("raw").text
    assert "300 more rows are not shown" in page.id("series").text


def test_hostile_text_stays_text() -> None:
    tracked = histories.make_history(metric=HOSTILE, cpu_model=HOSTILE, kernel=HOSTILE)
    changes = tracked.changes.assign(acknowledged=HOSTILE, commit=HOSTILE)
    changed = dataclasses.replace(tracked, changes=changes, notes=[HOSTILE])
    page = checked_page(to_html(changed))
    assert HOSTILE in page.id("changes").text
    assert HOSTILE in page.id("series").text


def test_history_without_a_change(tmp_path: Path) -> None:
    tracked = histories.make_history(2, 5)
    series = tracked.series.assign(verdict="pass")
    page = checked_page(
        to_html(dataclasses.replace(tracked, changes=tracked.changes[:0], series=series))
    )
    assert "No series has a change" in page.id("changes").text
    assert "No figure regressed or improved" in page.id("charts").text


@given(st.lists(st.floats(-1e12, 1e12) | st.just(math.nan), max_size=300), st.integers(2, 120))
def test_thinned_lines_keep_their_peaks(values: list[float], most: int) -> None:
    values_ = [value for _, value in thinned(values, most)]
    known = [value for value in values if math.isfinite(value)]
    assert len(values_) <= max(most, 2)
    if known:
        assert (min(values_), max(values_)) == (min(known), max(known))
    assert parse(str(spark(values, [], "no change", most))).all("svg")
