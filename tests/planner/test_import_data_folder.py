"""The data folder is written completely or not at all, and read with care."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.errors import PlanError
from harness.planner import importer
from harness.planner.data_folder import DataFolder
from harness.planner.importer import import_data
from harness.planner.sources.base import ImportOptions
from tests.planner.importing import csv_trace, import_from, inventory, machines, minutes


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return inventory(tmp_path / "vms.csv", {"vm": 4})


@pytest.fixture
def traced(tmp_path: Path) -> Path:
    rows = [f"{time},vm,1,1" for time in minutes(0, 5)]
    return csv_trace(tmp_path / "trace.csv", rows)


def test_description_is_read_as_written(tmp_path: Path, traced: Path) -> None:
    written = import_data([str(traced)], tmp_path / "data", ImportOptions())
    assert DataFolder(tmp_path / "data").description == written
    (source,) = written.sources
    assert source.path == str(traced)
    assert len(source.sha256) == 64


def test_folder_that_exists_is_kept(tmp_path: Path, source: Path) -> None:
    import_from(tmp_path / "data", source)
    with pytest.raises(PlanError, match="has imported data already") as info:
        import_from(tmp_path / "data", source)
    assert "--replace" in info.value.hint


def test_other_folder_is_never_replaced(tmp_path: Path, source: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(PlanError, match="exists and is no data folder"):
        import_data([str(source)], tmp_path / "home", ImportOptions(), replace=True)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"


def test_empty_folder_may_be_the_target(tmp_path: Path, source: Path) -> None:
    (tmp_path / "data").mkdir()
    assert list(machines(import_from(tmp_path / "data", source))) == ["vm"]


def test_replace(tmp_path: Path, source: Path, traced: Path) -> None:
    import_from(tmp_path / "out" / "data", traced)
    import_data([str(source)], tmp_path / "out" / "data", ImportOptions(), replace=True)
    data = DataFolder(tmp_path / "out" / "data")
    assert data.trace_files() == []
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data"]


def test_failed_replace_keeps_the_old_data(tmp_path: Path, source: Path) -> None:
    import_from(tmp_path / "out" / "data", source)
    bad = csv_trace(tmp_path / "bad.csv", ["vm,-1"], "vm,vcpus")
    with pytest.raises(PlanError):
        import_data([str(bad)], tmp_path / "out" / "data", ImportOptions(), replace=True)
    assert list(machines(DataFolder(tmp_path / "out" / "data"))) == ["vm"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["data"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_nothing_is_left_after_an_interruption(
    tmp_path: Path, traced: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(importer, "_describe", fail)
    with pytest.raises((KeyboardInterrupt, PlanError)) as info:
        import_from(tmp_path / "out" / "data", traced)
    assert list((tmp_path / "out").iterdir()) == []
    if isinstance(info.value, PlanError):
        assert "No space left on device" in info.value.cause


def test_folder_without_description(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="is no data folder") as info:
        DataFolder(tmp_path)
    assert "plan import" in info.value.hint


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"version": 1}', "cannot be read"),
        ('{"version": 99}', "version 99"),
    ],
)
def test_damaged_description(tmp_path: Path, source: Path, text: str, cause: str) -> None:
    import_from(tmp_path / "data", source)
    (tmp_path / "data" / "import.json").write_text(text)
    with pytest.raises(PlanError, match=cause):
        DataFolder(tmp_path / "data")


def test_damaged_table(tmp_path: Path, source: Path) -> None:
    data = import_from(tmp_path / "data", source)
    shutil.copy(source, data.path / "machines.parquet")
    with pytest.raises(PlanError, match=r"machines\.parquet cannot be read"):
        data.machines()


def test_findings_are_json(tmp_path: Path, source: Path) -> None:
    data = import_from(tmp_path / "data", source)
    content = json.loads((data.path / "import.json").read_text())
    assert content["findings"][0]["code"] == "without-trace"
    assert content["findings"][0]["machines"] == ["vm"]
