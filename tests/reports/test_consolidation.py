"""The consolidation page: what it says about a search, and that it stays small and accessible."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from harness.results import RunWriter
from reports import consolidation
from reports.consolidation.searches import searches
from reports.page import Run
from reports.run import render
from tests.reports.checks import checked_page, rows, table_of
from tests.reports.consolidations import STANDARD, SearchShape, write_searches
from tests.reports.page import Element, parse
from tests.results.synthetic import Synthetic, facts

SHAPES = {
    "kvm": SearchShape(3.0, unanswered=(5,), dies=True),
    "qemu": SearchShape(2.0, demand=1.9, exits=9.0, clones=False),
}


def page_of(run_file: Path) -> Element:
    out = consolidation.render(run_file, run_file.parent / "page.html")
    assert out is not None
    return checked_page(out.read_text(encoding="utf-8"))


def captions(section: Element) -> str:
    return " | ".join(one.text for one in section.all("figcaption"))


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_searches(tmp_path_factory.mktemp("store"), SHAPES)


@pytest.fixture(scope="module")
def page(run_file: Path) -> Element:
    return page_of(run_file)


@pytest.fixture(scope="module")
def old_page(tmp_path_factory: pytest.TempPathFactory) -> Element:
    """Of a run without times, reasons, pressure, shared memory and utilization."""
    return page_of(write_searches(tmp_path_factory.mktemp("store"), SHAPES, old=True))


def test_score_is_described_by_the_scalability_law(page: Element, old_page: Element) -> None:
    law = (
        "The Universal Scalability Law describes these points with a contention of 0.40 % and a "
        "coherency of 0.010 %; it says nothing beyond them."
    )
    assert law in captions(page.id("search-kvm"))
    assert "Scalability" not in captions(old_page.id("search-kvm"))


def test_page_answers_in_its_title_and_compares_hypervisors(page: Element) -> None:
    assert page.all("h1")[0].text == "6.5 servers fit on one host with kvm"
    table = rows(page.id("answer"))
    assert table["kvm (emulated)"][3:7] == ["6.50", "6.50", "3.25", "3.00 to 3.25"]
    assert table["qemu (emulated)"][3] == "4.50"


def test_order_of_hypervisors_is_explained_by_the_accounting(page: Element) -> None:
    (sentence,) = [one.text for one in page.id("answer").all("p") if one.text.startswith("qemu")]
    assert sentence == (
        "qemu carries fewer servers than kvm (4.5 and 6.5): the work of 2 tiles takes 0.38 CPU of "
        "the host, with kvm 0.28. A request takes 9.0 exits, with kvm 4.0."
    )
    drawing = page.id("answer").all("svg")[0]
    assert drawing.all("desc")[0].text == (
        "kvm (emulated): 6.5 (6 to 6.5); qemu (emulated): 4.5 (4 to 4.5)"
    )


@pytest.mark.parametrize(
    ("native", "sentence"),
    [
        (
            SearchShape(4.0, demand=1.0, exits=0.0),
            "kvm carries fewer servers than native (6.5 and 8.5): the work of 3 tiles takes "
            "0.42 CPU of the host, with native 0.30.",
        ),
        (
            SearchShape(4.0, demand=1.4, exits=0.0),
            "kvm carries fewer servers than native (6.5 and 8.5): the accounting of CPU time does "
            "not explain it.",
        ),
        (
            SearchShape(2.0, demand=1.0, exits=0.0, ended_early=True),
            "The order of native and kvm is open: the search on native ended early, at 4.5 "
            "servers.",
        ),
        (
            SearchShape(3.0, ended_early=True),
            "is open: the search on native ended early, at 6.5 servers.",
        ),
        (
            SearchShape(4.0, demand=1.0, exits=0.0, ended_early=True),
            "kvm carries fewer servers than native (6.5 and at least 8.5): the work of",
        ),
        (
            SearchShape(3.25, demand=1.0, exits=0.0),
            "kvm carries fewer servers than native (6.5 and 7), but their ranges overlap: the work",
        ),
        (SearchShape(3.0), "kvm and native carry equally many servers (6.5)."),
    ],
)
def test_order_with_native(tmp_path: Path, native: SearchShape, sentence: str) -> None:
    shapes = {"kvm": SearchShape(3.0), "native": native}
    text = page_of(write_searches(tmp_path, shapes, tick=8)).id("answer").text
    assert sentence in text or sentence.replace("kvm and native", "native and kvm") in text


def test_points_have_verdicts_and_reasons(page: Element) -> None:
    points = table_of(page.id("search-kvm"), "All points")
    assert {name: cells[1] for name, cells in points.items()} == {
        **dict.fromkeys("123", "pass"),
        "4": "fail",
    }
    assert points["4"][2] == "web of tile 0: p95 0.12 s, limit 0.1 s"
    assert points["1"][2] == "–"
    assert points["3"][5] == "36.0", "pressure"


def test_requests_without_an_answer_are_infinitely_slow(page: Element) -> None:
    section = page.id("search-kvm")
    (table,) = [t for t in section.all("table") if t.all("caption")[0].text.startswith("Latency")]
    cells = [
        [cell.text for cell in row.children if isinstance(cell, Element)]
        for row in table.all("tbody")[0].all("tr")
    ]
    at_four = [row for row in cells if row[1] == "4"]
    assert [row[:6] for row in at_four] == [
        [guest, "4", "60.0", "no answer", "no answer", "100"] for guest in ("web", "batch")
    ]
    drawing = section.all("svg")[0]
    assert "p99 29.7 ms at 1 tile, no answer at 4 tiles" in drawing.all("desc")[0].text
    assert "p99: no answer at 4" in [title.text for title in drawing.all("title")]
    assert "without an answer" in captions(section)
    assert "without an answer" not in captions(page.id("search-qemu"))


def test_median_of_a_number_of_tiles_counts_points_without_an_answer(tmp_path: Path) -> None:
    shape = SearchShape(1.0, tiles=(1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0), unanswered=(2, 3, 6))
    search = next(searches(Run.read(write_searches(tmp_path, {"kvm": shape}, tick=8))))
    for metric, percentile in (("latency", 99), ("latency.worst_guest", 95)):
        at = search.by_tiles(metric, guest="web", percentile=percentile)
        assert at[2.0] == math.inf, "two of three"
        assert at[3.0] < math.inf, "one of three"
        assert at[1.0] < at[3.0]


def test_invalid_points_count_only_where_nothing_else_was_measured(tmp_path: Path) -> None:
    shape = SearchShape(1.0, tiles=(1.0, 2.0, 2.0, 3.0), invalid=(1, 3))
    search = next(searches(Run.read(write_searches(tmp_path, {"kvm": shape}, tick=8))))
    search.frame.loc[search.frame["batch"] == 1, "value"] = 1000.0
    assert search.at(2.0, "latency.worst_guest", guest="web") == 62.0
    assert search.at(3.0, "latency.worst_guest", guest="web") == 93.0
    assert search.knee == 1.25


def test_cpu_has_pressure_beside_it_and_memory_its_parts(page: Element) -> None:
    texts = [one.text for one in page.id("search-kvm").all("desc")]
    assert any("pressure 48 % at 4 tiles" in text for text in texts)
    assert any(
        "1 tiles: private 14 MiB" in text.replace("14.0", "14") and "merged by KSM" in text
        for text in texts
    )


def test_timeline_has_points_guests_and_their_ends(page: Element) -> None:
    section = page.id("search-kvm")
    events = table_of(section, "Events")
    assert events["1"][1:5] == ["pass", "64", "30.0", "2"]
    assert events["4"][1:] == ["fail", "160", "30.0", "8", "web-1 at 181 s"]
    drawing = section.all("svg")[-2]  # the last one is for telephones
    assert "1 pass from 0 s" in drawing.all("desc")[0].text
    words = [one.text for one in drawing.all("text")]
    for expected in ("4 ✗", "+8", "web-1 ended", "Servers that run"):
        assert expected in words
    ended = [cells[5] for cells in table_of(page.id("search-qemu"), "Events").values()]
    assert set(ended) == {"–"}, "guests that the suite itself ends are no event"


def test_timeline_without_utilization_has_the_points(tmp_path: Path) -> None:
    run = Run.read(write_searches(tmp_path, {"kvm": SearchShape(3.0)}))
    own = run.frame["metric"].str.startswith("consolidation.")
    html = consolidation.to_html(Run(run.facts, run.frame[own]), Path("run.parquet"))
    section = checked_page(html).id("search-kvm")
    assert "over time" in captions(section)
    assert table_of(section, "Events")["4"][4] == "–"


def test_page_of_an_older_run_leaves_out_what_it_does_not_know(old_page: Element) -> None:
    section = old_page.id("search-kvm")
    for absent in ("over time", "PSI", "host memory"):
        assert absent not in captions(section)
    assert table_of(section, "All points")["4"][1:3] == ["fail", "–"]
    assert table_of(section, "Host memory")["web"][1] == "20.0"


def test_power_is_a_sentence_where_it_is_known(tmp_path: Path, page: Element) -> None:
    shape = SearchShape(2.0, watts=15.0)
    answer = page_of(write_searches(tmp_path, {"kvm": shape}, tick=8)).id("answer").text
    expected = (
        "With 2 tiles under kvm (emulated) the CPU packages use 60.0 W, 15.0 W a server, and "
    )
    assert f"{expected}30.0 W without load." in " ".join(answer.split())
    assert "packages" not in page.id("answer").text


def test_clones_with_and_without_ksm_differ_by_a_column(page: Element) -> None:
    (table, *_) = page.id("idle").all("table")
    cells = [
        [cell.text for cell in row.children if isinstance(cell, Element)]
        for row in table.all("tbody")[0].all("tr")
    ]
    assert cells == [
        ["density.merged_each", "50", "KSM off, after 60 s", "0", "MiB/guest"],
        ["density.merged_each", "50", "KSM on, after 60 s", "3.50", "MiB/guest"],
    ]


def test_neighbours_are_shaded_by_their_effect(page: Element) -> None:
    (table, *_) = page.id("neighbours").all("table")
    cells = {cell.text: cell.attributes["class"] for cell in table.all("td")}
    shades = {"1.0": "heat", "1.3": "heat1", "1.8": "heat2", "2.6": "heat3", "14": "heat4"}
    for text, shade in shades.items():
        assert cells[text].split()[-1] == shade
    assert cells["no answer"].endswith("heat4")


def test_figures_have_titles_and_descriptions(page: Element, old_page: Element) -> None:
    for one in (*page.all("svg"), *old_page.all("svg")):
        assert one.all("title")[0].text
        assert len(one.all("desc")[0].text) > 20


def test_page_of_a_large_search_stays_small(tmp_path: Path) -> None:
    tiles = [float(number) for number in range(1, 65)]
    shapes = {
        name: SearchShape(knee, tiles, exits=exits, unanswered=(62, 63), guests=STANDARD)
        for name, knee, exits in (("native", 62.0, 0.0), ("kvm", 50.0, 5.0), ("qemu", 40.0, 9.0))
    }
    page = page_of(write_searches(tmp_path, shapes, tick=8))
    assert "16 of 64 numbers are shown." in captions(page.id("search-kvm"))


def test_run_without_a_search_has_no_page(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "store", facts(hypervisor="kvm"))
    for sample in Synthetic(writer.run, boots=1).exits():
        writer.add(sample)
    path = writer.close()
    assert consolidation.render(path, tmp_path / "page.html") is None
    assert not (tmp_path / "page.html").exists()
    assert consolidation.summary(Run.read(path)) == []


def test_report_of_the_run_has_the_answer(run_file: Path, tmp_path: Path) -> None:
    html = render(run_file, tmp_path / "report.html").read_text(encoding="utf-8")
    section = parse(html).id("answer")
    assert rows(section)["kvm (emulated)"][3] == "6.50"
    assert "consolidation.html" in section.text
    side_by_side = parse(html).id("side-by-side").text
    assert "point.start" not in side_by_side
    assert "unanswered" not in side_by_side
