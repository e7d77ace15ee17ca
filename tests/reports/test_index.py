from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from harness.results import RunWriter
from reports.index import render
from tests.reports.checks import HOSTILE, checked_page, rows
from tests.reports.page import Element
from tests.results.synthetic import facts, write_run


def page_of(store: Path, out: Path) -> Element:
    return checked_page(render(store, out).read_text(encoding="utf-8"))


def run(store: Path, name: str, **more: object) -> Path:
    return RunWriter(store, facts(**more), run=name).close(facts(**more))


def test_runs_are_listed_newest_first_with_links(tmp_path: Path) -> None:
    store = tmp_path / "a store"
    run(store, "20260102T030405Z-aaaaaa", outcomes={"passed": 3, "failed": 1}, complete=False)
    run(store, "20260103T030405Z-bbbbbb", profile="full")
    newest = write_run(store, parts="boot")
    page_beside = store / "20260102T030405Z-aaaaaa" / "report.html"
    page_beside.parent.mkdir()
    page_beside.touch()
    page = page_of(store, tmp_path / "out" / "index.html")
    table = rows(page.id("runs"))
    assert list(table) == [newest.stem, "20260103T030405Z-bbbbbb", "20260102T030405Z-aaaaaa"]
    assert table[newest.stem][-1] == "20"
    assert table["20260103T030405Z-bbbbbb"][5] == "full"
    assert "incomplete" in table["20260102T030405Z-aaaaaa"][0]
    assert table["20260102T030405Z-aaaaaa"][7] == "3 passed, 1 failed"
    (link,) = page.id("runs").all("a")
    assert link.attributes["href"] == "./../a%20store/20260102T030405Z-aaaaaa/report.html"


def test_broken_files_are_listed(tmp_path: Path) -> None:
    good = run(tmp_path, "20260102T030405Z-aaaaaa")
    names = ("20260103T030405Z-000001", "20260103T030405Z-000002", "20260103T030405Z-000003")
    empty, foreign, odd = (good.with_name(f"{name}.parquet") for name in names)
    empty.write_bytes(b"")
    pq.write_table(pa.table({"x": [1]}), foreign)
    run(tmp_path, odd.stem, outcomes={"passed": [HOSTILE]})
    page = page_of(tmp_path, tmp_path / "index.html")
    assert list(rows(page.id("runs"))) == [good.stem]
    table = rows(page.id("unreadable"))
    assert set(table) == {f"2026-01/{name}.parquet" for name in names}
    assert all(row[1] for row in table.values())
    assert "3 files cannot be read" in page.all("header")[0].text


def test_empty_store_and_hostile_facts(tmp_path: Path) -> None:
    assert "has no runs" in page_of(tmp_path, tmp_path / "index.html").id("runs").text
    odd = dict.fromkeys(("hypervisor", "host", "hostname", "backend", "commit"), HOSTILE)
    run(tmp_path, "20260102T030405Z-aaaaaa", **odd, outcomes={HOSTILE: 1})
    (table,) = rows(page_of(tmp_path, tmp_path / "index.html").id("runs")).values()
    assert HOSTILE in table[2]
