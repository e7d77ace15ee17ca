"""The pages in a browser, if one is installed."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reports import compare, consolidation, index, plan, run, trend
from reports.plan import quality
from tests.reports import browser, comparisons, consolidations, histories, plans
from tests.results.synthetic import write_run

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(browser.missing()), reason=browser.missing()),
]

PAGES = ("run", "consolidation", "compare", "trend", "index", "plan", "quality")
# page -> a table with a filter, the index of a numeric column, and a filter text
TABLES = {
    "run": ("#io table", 3, "randwrite"),
    "compare": ("#figures table", 4, "regressed"),
    "trend": ("#series table", 5, "depth 2"),
    "index": ("#runs table", 8, "failed"),
    "plan": ("#hosts table", 5, "keep"),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("pages")
    run.render(write_run(where / "store"), where / "run.html")
    shapes = {
        "native": consolidations.SearchShape(3.75, exits=0.0, ended_early=True),
        "kvm": consolidations.SearchShape(3.0, unanswered=(5,), dies=True),
    }
    searches = consolidations.write_searches(where / "searches", shapes)
    consolidation.render(searches, where / "consolidation.html")
    for number in range(6):
        outcomes = {"passed": 3, "failed": number % 2}
        write_run(where / "store", parts="boot", boots=1 + number, facts={"outcomes": outcomes})
    compare.render(comparisons.make_comparison(), where / "compare.html")
    trend.render(histories.make_history(), where / "trend.html")
    index.render(where / "store", where / "index.html")
    plan.render(plans.make_plan(2000, 90), where / "plan.html", plans.make_import(2003))
    quality.render(plans.make_import(), where / "quality.html", "data")
    return where


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def chromium(downloads: Path) -> Iterator[Chrome]:
    with browser.chromium(downloads) as driver:
        yield driver


@pytest.mark.parametrize("name", PAGES)
def test_page_fits_and_is_accessible_without_console_messages(
    chromium: Chrome, pages: Path, name: str
) -> None:
    page = pages / f"{name}.html"
    browser.requested_urls(chromium)
    for width, dark in ((1280, False), (1280, True), (400, False)):
        browser.show(chromium, page, width=width, dark=dark)
        assert browser.accessibility_findings(chromium) == [], (width, dark)
    for width in (400, 1280):
        browser.show(chromium, page, width=width)
        wide = "return document.documentElement.scrollWidth"
        assert chromium.execute_script(wide) <= width
        drawn = chromium.execute_script(
            "return [...document.querySelectorAll('svg:not(.spark)')]"
            ".filter((one) => one.getBoundingClientRect().width > 100).length"
        )
        figures = chromium.execute_script("return document.querySelectorAll('figure').length")
        assert drawn == figures
        assert figures or name in ("index", "quality")
    assert browser.requested_urls(chromium) == []
    assert browser.console_messages(chromium) == []


def focused(chromium: Chrome) -> WebElement:
    return chromium.switch_to.active_element


def press(chromium: Chrome, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(chromium).send_keys(*keys).perform()


def tab_to(chromium: Chrome, target: WebElement, most: int = 200) -> None:
    """Move the focus to an element with the Tab key."""
    from selenium.webdriver.common.keys import Keys

    chromium.execute_script("document.activeElement.blur(); window.getSelection().empty()")
    for _ in range(most):
        press(chromium, Keys.TAB)
        if focused(chromium) == target:
            break
    else:
        pytest.fail(f"the keyboard does not reach {target.get_attribute('outerHTML')}")
    outline = target.value_of_css_property("outline-style")
    assert outline != "none", "the focus must be visible"


def column(table: WebElement, at: int) -> list[float]:
    cells = table.find_elements("css selector", f"tbody tr > :nth-child({at + 1})")
    keys = [cell.get_attribute("data-sort") for cell in cells]
    return [float(key) for key in keys if key]


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_sorted_filtered_and_saved_by_keyboard(
    chromium: Chrome, pages: Path, downloads: Path, name: str
) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.show(chromium, pages / f"{name}.html")
    place, at, word = TABLES[name]
    table = chromium.find_element("css selector", place)
    head = table.find_element("css selector", f"thead th:nth-child({at + 1})")
    box = chromium.find_element("css selector", f"[data-filter={table.get_attribute('id')}]")
    save = chromium.find_element("css selector", f"[data-csv={table.get_attribute('id')}]")
    assert head.get_attribute("aria-sort") == "none"
    tab_to(chromium, head.find_element("tag name", "button"))
    for key, way in ((Keys.ENTER, "ascending"), (Keys.SPACE, "descending")):
        press(chromium, key)
        assert head.get_attribute("aria-sort") == way
        values = column(table, at)
        assert len(values) > 3
        assert values == sorted(values, reverse=way == "descending")
    tab_to(chromium, box)
    press(chromium, word)
    shown = [row for row in table.find_elements("css selector", "tbody tr") if row.is_displayed()]
    every = len(table.find_elements("css selector", "tbody tr"))
    assert 0 < len(shown) < every
    tools = box.find_element("xpath", "./ancestor::p")
    assert tools.find_element("css selector", "[aria-live]").text == f"{len(shown)} of {every} rows"
    press(chromium, Keys.TAB)
    assert focused(chromium) == save
    press(chromium, Keys.ENTER)
    saved_rows = saved(downloads)
    assert len(saved_rows) == len(shown) + 1
    assert all(word in " ".join(row).replace(", ", " ") for row in saved_rows[1:])
    assert browser.console_messages(chromium) == []


def saved(downloads: Path) -> list[list[str]]:
    """The rows of the CSV file that the browser saved."""
    until = time.monotonic() + 10
    while not (files := list(downloads.glob("*.csv"))):
        assert time.monotonic() < until, list(downloads.iterdir())
        time.sleep(0.02)
    (file,) = files
    rows = list(csv.reader(file.read_text(encoding="utf-8-sig").splitlines()))
    file.unlink()
    return rows


@pytest.mark.parametrize("name", PAGES)
def test_raw_data_are_decompressed_and_saved(
    chromium: Chrome, pages: Path, downloads: Path, name: str
) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.show(chromium, pages / f"{name}.html")
    chromium.find_element("id", "download").send_keys(Keys.ENTER)
    rows = saved(downloads)
    assert len(rows) > 6
    assert len({len(row) for row in rows}) == 1
    assert browser.console_messages(chromium) == []


def test_saved_table_has_no_formulas(chromium: Chrome, downloads: Path, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    page = tmp_path / "page.html"
    compare.render(
        comparisons.make_comparison({"regressed": 2, "pass": 1}, text='=cmd|"x",1'), page
    )
    browser.show(chromium, page)
    chromium.find_element("css selector", "#figures [data-csv]").send_keys(Keys.ENTER)
    head, first, *_ = saved(downloads)
    by_name = dict(zip(head, first, strict=True))
    assert by_name["Hypervisor"] == """'=cmd|"x",1"""
    assert by_name["Worse by"] == "+50%"
    assert by_name["Base"] == "100"
