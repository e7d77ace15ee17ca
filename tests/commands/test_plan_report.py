"""`plan report`: which page it writes for what, and its exit statuses."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.planner.data_folder import IMPORT_FILE
from harness.planner.plan_file import write_plan
from tests.reports.plans import make_import, make_plan


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with its description alone, which is all that pages read."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / IMPORT_FILE).write_text(json.dumps(asdict(make_import())), encoding="utf-8")
    return folder


@pytest.fixture
def plan(tmp_path: Path, data: Path) -> Path:
    path = tmp_path / "plan.json"
    write_plan(replace(make_plan(), data=str(data)), path)
    return path


def test_page_and_files_are_written_beside_the_plan(
    plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "report", str(plan)]) == 0
    page = plan.with_suffix(".html")
    assert capsys.readouterr().out == f"{page}\n"
    html = page.read_text(encoding="utf-8")
    assert "412 servers to 31 hosts, bound 30" in html
    assert "3,585,600 samples" in html
    names = {one.name for one in page.parent.glob("plan-*.csv")}
    assert names == {
        *("plan-moves.csv", "plan-machines.csv", "plan-hosts.csv", "plan-freed.csv"),
        "plan-failures.csv",
    }


def test_page_without_its_data_says_so(plan: Path, data: Path) -> None:
    (data / IMPORT_FILE).unlink()
    out = plan.with_name("other.html")
    assert main(["plan", "report", str(plan), "--out", str(out)]) == 0
    assert "was not there when this page was made" in out.read_text(encoding="utf-8")


def test_data_that_are_named_must_be_there(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "report", str(plan), "--data", str(tmp_path / "none")]) == 4
    assert "is no data folder" in capsys.readouterr().err


def test_data_folder_has_a_page_of_its_own(data: Path) -> None:
    assert main(["plan", "report", str(data)]) == 0
    assert "415 machines, 30 days of data" in (data / "quality.html").read_text(encoding="utf-8")


def test_file_that_is_no_plan_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.json"
    path.write_text('{"version": 1}', encoding="utf-8")
    assert main(["plan", "report", str(path)]) == 4
    assert "hint: " in capsys.readouterr().err
    assert not path.with_suffix(".html").exists()
