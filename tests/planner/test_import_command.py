"""`python -m harness plan import`: what it prints, and its exit statuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.__main__ import main
from harness.commands.plan import import_ as command
from harness.planner.sources import FORMATS, READERS
from tests.planner.importing import csv_trace, inventory, minutes


def test_import_prints_what_was_detected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{time},a,1,2" for time in minutes(0, 5, 60, 65)]
    trace = csv_trace(tmp_path / "trace.csv", rows, "time,vm,cpu_cores,memory_gib")
    vms = inventory(tmp_path / "vms.csv", {"a": 4, "[red]b": 2, "c": 2, "d": 1, "e": 1})
    status = main(["plan", "import", str(trace), str(vms), "-o", str(tmp_path / "data")])
    output = capsys.readouterr().out
    assert status == 0
    assert "planner, 4 rows" in output
    assert "memory_gib was converted into memory_mib." in output
    assert "5 machines, 1 with samples: 4 samples, one each 300 s" in output
    assert "from 2026-03-02 00:00 to 2026-03-02 01:10 UTC" in output
    assert "[red]b" in output  # no markup
    assert output.rstrip().endswith(str(tmp_path / "data"))
    assert (tmp_path / "data" / "import.json").exists()


def test_bad_input_ends_with_status_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = csv_trace(tmp_path / "trace.csv", ["2026-03-02 00:00,a,1,1"])
    assert main(["plan", "import", str(file), "-o", str(tmp_path / "data")]) == 4
    error = capsys.readouterr().err
    assert "column 'time' has no time zone" in error
    assert "\nhint: add --timezone=UTC" in error


@pytest.mark.parametrize(
    "option",
    ["--date=yesterday", "--rating-mhz=0", "--rating-mhz=nan", "--step=0", "--format=xml"],
)
def test_wrong_options(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["plan", "import", "x", "-o", "y", option])
    assert option.partition("=")[0] in capsys.readouterr().err


def test_formats_are_those_of_the_readers() -> None:
    assert command.FORMATS == FORMATS
    assert {reader().name for reader in READERS} == set(FORMATS)
