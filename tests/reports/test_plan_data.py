"""The page of the quality of imported data."""

from __future__ import annotations

from dataclasses import replace

from harness.planner.trace import Import
from reports.plan import quality
from tests.reports.checks import checked_page, key_figures, rows
from tests.reports.page import Element
from tests.reports.plans import make_import


def import_page(imported: Import) -> Element:
    return checked_page(quality.to_html(imported, "data/frankfurt"))


def test_page_of_an_import() -> None:
    page = import_page(make_import())
    assert page.all("h1")[0].text == "415 machines, 30 days of data, 2 warnings"
    found = key_figures(page)
    assert found["Machines"] == ("415", "412 have a trace of their load; 3 have none")
    assert found["Time covered"] == ("30 days", "5 Jan 2026 to 3 Feb 2026, UTC, every 5 min")
    assert found["Warnings"][0] == "2"
    first = page.id("findings").all("tbody")[0].all("tr")[0].text
    assert first == (
        "warningGaps of more than 15 minutes. They count as not known.91vm-00007, vm-00011gap"
    )
    sources = rows(page.id("sources"))
    assert sources["frankfurt.xlsx"][1:4] == [
        *("rvtools", "415", "Memory is in MiB. The header is that of RVTools 4.")
    ]


def test_page_of_a_short_import_has_a_banner() -> None:
    assert "only 12 hours" in import_page(make_import(days=0.5)).all("header")[0].text
    assert "only" not in import_page(make_import(days=7.0)).all("header")[0].text


def test_import_without_findings_is_good() -> None:
    page = import_page(replace(make_import(), findings=(), sources=()))
    assert key_figures(page)["Warnings"] == ("0", "Nothing speaks against a plan")
    assert "Nothing is wrong with the data." in page.id("findings").text
