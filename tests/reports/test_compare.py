from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ResultError
from harness.results.compare import VERDICTS, compare
from harness.results.selection import select_runs
from reports import markdown
from reports.compare import render, to_html
from reports.page import EMULATED
from tests.reports import comparisons
from tests.reports.checks import HOSTILE, checked_page, rows
from tests.reports.page import Element
from tests.results.synthetic import write_run


@pytest.fixture(scope="module")
def page() -> Element:
    return checked_page(to_html(comparisons.make_comparison()))


def cards(page: Element) -> dict[str, list[str]]:
    return {
        card.all("dt")[0].text: [part.text for part in card.all("dd")]
        for card in page.id("key").all("div")
    }


def test_key_figures_have_counts_and_largest_regression(page: Element) -> None:
    figures = cards(page)
    assert [figures[verdict.capitalize()][0] for verdict in VERDICTS] == ["3", "2", "1", "20"]
    value, sentence = figures["Largest regression"]
    assert value.startswith("+50 %")
    assert "io.regressed.0 randread 4k, depth 0 on kvm: from 100 µs to 150 µs" in sentence
    assert "95 % interval +46 to +55 %" in sentence


def test_table_begins_with_regressions(page: Element) -> None:
    table = rows(page.id("figures"))
    assert len(table) == 27
    assert next(iter(table.values()))[1:] == [
        *("randread 4k, depth 0", "kvm", "regressed", "+50 %", "+46 to +55 %", "100", "150", "µs"),
        "8, 9",
    ]
    lone = table["io.not compared.0"]
    assert "not measured in the new run" in lone[0]
    assert lone[4] == "–"


@pytest.mark.parametrize(("boots", "heading"), [(5, "Interval"), (6, "95 % interval")])
def test_heading_of_intervals_names_a_confidence_that_all_reach(boots: int, heading: str) -> None:
    comparison = comparisons.make_comparison()
    comparison.table.loc[0, "base_boots"] = boots
    (table,) = checked_page(to_html(comparison)).id("figures").all("table")
    assert table.all("thead")[0].all("th")[5].text == heading
    assert f"| worse by | {heading.lower()} |" in markdown.comment(comparison)


def test_forest_plot_has_all_figures_without_a_pass(page: Element) -> None:
    (figure,) = page.id("effects").all("figure")
    for drawing in figure.all("svg"):
        description = drawing.all("desc")[0].text
        assert "io.regressed.0" in description
        assert "io.inconclusive.0" in description
        assert "io.not compared.0" not in description, "it has no effect"
        assert "io.pass" not in description
        assert len(drawing.all("circle")) == 4
    assert "6 figures without a pass; above 0 is worse; 8 to 9 boots on each side" in figure.text


def test_forest_plot_stays_readable() -> None:
    page = checked_page(to_html(comparisons.make_comparison({"regressed": 50, "pass": 1})))
    (figure,) = page.id("effects").all("figure")
    assert len(figure.all("svg")[0].all("circle")) == 30
    assert "20 more are in the table" in figure.text


def test_environment_is_listed(page: Element) -> None:
    assert rows(page.id("environment"))["kernel"][1:] == ["6.1.0-1", "6.1.0-2"]


def test_page_of_passes_only() -> None:
    page = checked_page(to_html(comparisons.make_comparison({"pass": 3})))
    assert "Largest regression" not in cards(page)
    assert "every figure that both sides have passes" in page.id("effects").text
    assert "None:" in page.id("caveats").text


def test_hostile_text_stays_text() -> None:
    page = checked_page(to_html(comparisons.make_comparison(text=HOSTILE)))
    assert HOSTILE in page.id("figures").text
    assert HOSTILE in page.id("environment").text
    assert "49" not in page.all("header")[0].text


def test_page_with_many_figures_stays_small() -> None:
    page = checked_page(to_html(comparisons.make_comparison({"regressed": 100, "pass": 5000})))
    assert "4,600 more rows are not shown" in page.id("figures").text


def test_page_of_two_stored_runs(tmp_path: Path) -> None:
    for seed in (1, 2):
        write_run(tmp_path / "store", seed=seed, parts="io", boots=6)
    comparison = compare(
        select_runs(tmp_path / "store", "previous"), select_runs(tmp_path / "store", "latest")
    )
    page = checked_page(render(comparison, tmp_path / "page.html").read_text(encoding="utf-8"))
    base, new = comparison.base.names[0], comparison.new.names[0]
    assert page.all("h1")[0].text == f"{new} compared with {base}", "not latest: the page is kept"
    assert EMULATED in page.all("header")[0].text
    assert len(rows(page.id("figures"))) <= len(comparison.table)
    with pytest.raises(ResultError, match="cannot be written"):
        render(comparison, tmp_path / "store")
