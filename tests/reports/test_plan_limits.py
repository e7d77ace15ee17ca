"""Pages of plans: files beside them, hostile names, values that are not finite, and sizes."""

from __future__ import annotations

import csv
import itertools
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import ResultError
from harness.planner.plan import Plan
from reports import plan as plan_page
from reports.plan import quality
from tests.reports.checks import HOSTILE, checked_page, rows
from tests.reports.plans import HOURS, make_import, make_plan, mapped

MOST_BYTES = 2 << 20


def written(directory: Path, plan: Plan) -> dict[str, list[list[str]]]:
    """The rows of each file that the page links to, by its name."""
    out = plan_page.render(plan, directory / "my plan.html", make_import())
    page = checked_page(out.read_text(encoding="utf-8"))
    files = {}
    for link in page.id("moves").all("a"):
        assert link.attributes["href"] == "./" + link.text.replace(" ", "%20")
        with (directory / link.text).open(encoding="utf-8", newline="") as stream:
            files[link.text] = list(csv.reader(stream))
    for cells in rows(page.id("moves")).values():
        assert int(cells[2].replace(",", "")) == len(files[cells[0]]) - 1
    return files


def test_files_beside_the_page_have_all_rows(tmp_path: Path) -> None:
    plan = make_plan()
    files = written(tmp_path, plan)
    moves = files["my plan-moves.csv"]
    assert moves[:2] == [["machine", "from", "to"], ["vm-00001", "old-001", "esx-001"]]
    assert len(moves) == len(plan.moves) + 1
    machines = {row[0]: row[1:] for row in files["my plan-machines.csv"][1:]}
    assert len(machines) == 412
    assert machines["vm-00010"][0] == "esx-001"
    assert machines["vm-00010"][3:] == ["comatose", "switch it off, or delete it"]
    head, first, *_ = files["my plan-hosts.csv"]
    by_name = dict(zip(head, first, strict=True))
    assert len(head) == 6 + 3 + HOURS
    assert by_name["host"] == "esx-001"
    assert float(by_name["tue_14"]) == pytest.approx(plan.hosts[0].hours[38], rel=1e-5)
    assert len(files["my plan-freed.csv"]) == 89 + 1
    assert len(files["my plan-failures.csv"]) == 32 + 1


def test_files_have_no_formulas(tmp_path: Path) -> None:
    plan = mapped(make_plan(20, 2), lambda one: f"=1+{one}" if isinstance(one, str) else one)
    for cells in itertools.chain(*written(tmp_path, plan).values()):
        assert not [cell for cell in cells if cell.startswith("=")]


@pytest.mark.parametrize("words", [HOSTILE, "x" * 5000, "a\u202eb\x00\x1b[2J\n"])
def test_hostile_names_are_shown_as_text(words: str) -> None:
    def change(value: Any) -> Any:
        return words + value if isinstance(value, str) else value

    fixed = ("kind", "severity")
    plan, imported = mapped(make_plan(), change, fixed), mapped(make_import(), change, fixed)
    for html in (
        plan_page.to_html(plan, Path("plan.html"), imported),
        quality.to_html(imported, words),
    ):
        page = checked_page(html)
        assert html.count("<script") == 1
        assert not re.search("[\u202e\x00\x1b]", html)
        assert "alert('x')" in page.text or words != HOSTILE


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("every", [1, 3, 7])
def test_values_that_are_not_finite_are_never_shown(value: float, every: int) -> None:
    numbers = itertools.count()

    def change(old: Any) -> Any:
        return value if isinstance(old, float) and next(numbers) % every == 0 else old

    plan, imported = mapped(make_plan(), change), mapped(make_import(), change)
    for html in (
        plan_page.to_html(plan, Path("plan.html"), imported),
        quality.to_html(imported, "data"),
    ):
        checked_page(html)
        body = html.partition("<body>")[2].partition("<script")[0]
        assert not re.search(r"\b([Nn]a[Nn]|-?inf|Infinity|None)\b", body)


def test_page_of_ten_thousand_machines_is_small(tmp_path: Path) -> None:
    out = plan_page.render(make_plan(10_000, 640), tmp_path / "plan.html", make_import(10_003))
    assert out.stat().st_size < MOST_BYTES
    page = checked_page(out.read_text(encoding="utf-8"))
    assert "All 10,000 machines with their hosts" in page.id("raw").text


def test_page_too_large_for_its_machines_names_the_file() -> None:
    plan = make_plan(10_000, 640)
    random = np.random.default_rng(1)
    long = [
        replace(host, machines=tuple(random.bytes(60).hex() for _ in host.machines))
        for host in plan.hosts
    ]
    html = plan_page.to_html(replace(plan, hosts=tuple(long)), Path("plan.html"), None)
    assert len(html.encode()) < MOST_BYTES
    raw = checked_page(html).id("raw").text
    assert "cannot hold all 10,000 rows. They are in the file of machines beside" in raw


def test_files_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "nowhere").touch()
    with pytest.raises(ResultError, match=r"plan-moves\.csv cannot be written"):
        plan_page.render(make_plan(), tmp_path / "nowhere" / "plan.html")
