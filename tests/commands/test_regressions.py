"""Verdicts on the terminal, and exit statuses for CI."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.__main__ import main
from harness.results.history import ID, load_history
from tests.results.nightly_store import night


def slower(store: Path, nights: int = 36, at: int = 28) -> None:
    for number in range(nights):
        levels = {"a.same": 10.0, "a.slower": 12.0 if number >= at else 10.0}
        night(store, number, levels, boots=8)


def run(store: Path, *words: str) -> int:
    return main([words[0], "--results", str(store), *words[1:]])


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slower(tmp_path, nights=3, at=2)
    assert run(tmp_path, "compare", "previous", "latest") == 3
    output = capsys.readouterr().out
    assert "a.slower" in output
    assert "regressed" in output
    assert run(tmp_path, "compare", "2026-03-01", "2026-03-02") == 0


def test_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slower(tmp_path, nights=2, at=1)
    assert run(tmp_path, "compare", "previous", "latest", "--markdown", "-") == 3
    assert "a.slower" in capsys.readouterr().out
    where = tmp_path / "comment.md"
    assert run(tmp_path, "compare", "previous", "latest", "--markdown", str(where)) == 3
    assert "a.slower" in where.read_text()


def test_unwritable_markdown_file_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slower(tmp_path, nights=2, at=1)
    (tmp_path / "nowhere").touch()
    nowhere = str(tmp_path / "nowhere" / "comment.md")
    assert run(tmp_path, "compare", "previous", "latest", "--markdown", nowhere) == 1
    assert "comment.md cannot be written: " in capsys.readouterr().err


def test_track_and_acknowledge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slower(tmp_path)
    assert run(tmp_path, "track") == 3
    output = capsys.readouterr().out
    series = str(load_history(tmp_path).series[ID][0])
    assert series in output, "the id is needed to acknowledge the series"
    assert run(tmp_path, "acknowledge", series, "--why", "a price worth paying") == 0
    capsys.readouterr()
    assert run(tmp_path, "track") == 0
    assert "a price worth paying" in capsys.readouterr().out
    assert run(tmp_path, "acknowledge", series, "--reset", "--why", "measured anew") == 0
    assert load_history(tmp_path).changes.empty


def test_invalid_acknowledgements_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slower(tmp_path)
    assert run(tmp_path, "acknowledge", "feedfeed", "--why", " ") == 1
    assert "--why is empty" in capsys.readouterr().err
    assert run(tmp_path, "acknowledge", "feedfeed", "--why", "?") == 1
    assert "there is no series 'feedfeed'" in capsys.readouterr().err
    same = load_history(tmp_path).series.set_index("metric")[ID]["a.same"]
    assert run(tmp_path, "acknowledge", str(same), "--why", "?") == 1
    assert "has no change to acknowledge" in capsys.readouterr().err


@pytest.mark.parametrize("page", ["run", "compare", "trend", "index"])
def test_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str], page: str) -> None:
    slower(tmp_path, nights=3, at=2)
    words = ["previous"] if page == "compare" else []
    out = tmp_path / "pages" / "page.html"
    assert main(["report", page, *words, "--results", str(tmp_path), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert "<html" in out.read_text()


@pytest.mark.parametrize("words", [["compare", "latest"], ["track"], ["report", "run"]])
def test_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main([*words, "--results", str(tmp_path / "nowhere")]) == 1
    assert "run" in capsys.readouterr().err


def test_index_of_empty_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert main(["report", "index", "--results", str(tmp_path), "--out", str(out)]) == 0
    assert "no runs" in out.read_text().lower()
