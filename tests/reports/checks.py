"""Checks for all pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reports.run import render
from tests.reports.page import Element, parse
from tests.results.synthetic import write_run

HOSTILE = "\"><script>alert('x')</script><img src=x onerror=alert(1)>&amp;{{7*7}}"


def checked_page(html: str) -> Element:
    """Parse a page and check it; return it.

    Raises AssertionError when the page loads a resource, runs other scripts, or has a table or a
    figure that a screen reader cannot use.
    """
    page = parse(html)
    loads_nothing(html, page)
    tables_are_accessible(page)
    figures_are_described(page)
    assert len(html.encode()) < 1 << 20
    return page


def loads_nothing(html: str, page: Element) -> None:
    assert "://" not in html
    for element in page.everything():
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            value = element.attributes.get(name, "#")
            assert value.startswith(("#", "data:", "./")), (element.tag, value[:60])
        assert "style" not in element.attributes
        assert not [name for name in element.attributes if name.startswith("on")]
    assert "url(" not in html
    assert "@import" not in html
    assert len(page.all("script")) == 1
    assert page.all("img") == []
    policy = next(m for m in page.all("meta") if "http-equiv" in m.attributes)
    assert "default-src 'none'" in policy.attributes["content"]
    assert "unsafe" not in policy.attributes["content"]


def tables_are_accessible(page: Element) -> None:
    for table in page.all("table"):
        assert table.all("caption")[0].text
        heads = table.all("thead")[0].all("th")
        for head in heads:
            assert head.attributes["scope"] == "col"
            if "plain" not in head.attributes.get("class", ""):
                assert head.attributes["aria-sort"] == "none"
                assert head.all("button")
        for row in table.all("tbody")[0].all("tr"):
            assert row.all("th")[0].attributes["scope"] == "row"
            assert len(row.all("th") + row.all("td")) == len(heads)
            for cell in row.all("td"):
                if "number" in cell.attributes.get("class", "") and cell.attributes["data-sort"]:
                    float(cell.attributes["data-sort"])
    for box in page.all("input"):
        assert page.id(box.attributes["data-filter"]).tag == "table"
        assert box.parent is not None
        assert box.parent.tag == "label"
    saved = [button.attributes.get("data-csv", "") for button in page.all("button")]
    assert sorted(filter(None, saved)) == sorted(t.attributes["id"] for t in page.all("table"))


def figures_are_described(page: Element) -> None:
    for figure in page.all("figure"):
        assert figure.all("figcaption")[0].text
    for svg in page.all("svg"):
        assert svg.attributes["role"] == "img"
        if "aria-label" in svg.attributes:
            assert svg.attributes["aria-label"]
            continue
        for name in svg.attributes["aria-labelledby"].split():
            assert page.id(name).text
    ids = [e.attributes["id"] for e in page.everything() if "id" in e.attributes]
    assert len(ids) == len(set(ids))


def rows(section: Element) -> dict[str, list[str]]:
    """The cells of each row, by the text of the first cell without its remarks."""
    found = {}
    for row in section.all("tbody")[0].all("tr"):
        cells = [c for c in row.children if isinstance(c, Element)]
        first = cells[0].children[0]
        name = first.text if isinstance(first, Element) else first
        found[name.strip()] = [cell.text for cell in cells]
    return found


def table_of(section: Element, caption: str) -> dict[str, list[str]]:
    """The rows of a section's table; see rows()."""
    return rows(
        next(t for t in section.all("table") if t.all("caption")[0].text.startswith(caption))
    )


def key_figures(page: Element) -> dict[str, tuple[str, str]]:
    """Value and sentence of each key figure."""
    found = {}
    for box in page.id("key").all("div"):
        label, value, sentence = (one.text for one in box.children if isinstance(one, Element))
        found[label] = (value, sentence)
    return found


def paragraphs(section: Element) -> str:
    return " ".join(one.text for one in section.all("p"))


def page_of(directory: Path, **more: Any) -> Element:
    """The page of a synthetic run; see synthetic.write_run."""
    run = write_run(directory / "store", **more)
    return parse(render(run, directory / "page.html").read_text(encoding="utf-8"))
