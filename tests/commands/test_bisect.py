"""Bisection of a repository with a known slow commit; the measurements are real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.__main__ import main

# Writes a run with one figure, whose level is the content of the file work.
MEASURE = """
import datetime, pathlib, random, sys
from harness.results import RunWriter, Sample
from tests.results.synthetic import facts
level = float(pathlib.Path("work").read_text())
writer = RunWriter(pathlib.Path(sys.argv[1]), facts())
for boot in range(3):
    writer.add(Sample(metric="a.work", value=level * random.lognormvariate(0, 0.01), unit="us",
        better="lower", run=writer.run, suite="made", test="made", parameters={}, hypervisor="kvm",
        backend="emulated", host="h", image="", commit="", time=datetime.datetime.now(datetime.UTC),
        boot=boot))
print(writer.close())
"""
LEVELS = ["10", "10", "13", "13"]
ROOT = Path(__file__).parents[2]


class Repository:
    """A git repository with one commit for each level."""

    def __init__(self, path: Path, levels: list[str]) -> None:
        self.path = path
        path.mkdir()
        self.git("init", "-q", "-b", "trunk")
        self.commits = []
        for number, level in enumerate(levels):
            (path / "work").write_text(level)
            (path / "number").write_text(str(number))
            self.git("add", ".")
            self.git("commit", "-q", "-m", f"change {number}")
            self.commits.append(self.git("rev-parse", "HEAD"))

    def git(self, *words: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        argv = ["git", "-C", str(self.path), *who, *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    @property
    def worktrees(self) -> int:
        return len(self.git("worktree", "list").splitlines())


Checkout = Callable[[list[str]], Repository]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """`checkout(levels)`: create a repository and change to its directory."""

    def go(levels: list[str]) -> Repository:
        repository = Repository(tmp_path / "repository", levels)
        monkeypatch.chdir(repository.path)
        return repository

    return go


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments with a command that measures its working directory."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    script = tmp_path / "measure.py"
    script.write_text(MEASURE)
    return ["--results", str(tmp_path / "results"), "--command", sys.executable, str(script)]


def run(*words: str) -> int:
    return main(["bisect", *words])


@pytest.mark.slow
def test_first_bad_commit_is_named(
    tmp_path: Path,
    measure: list[str],
    checkout: Checkout,
    capsys: pytest.CaptureFixture[str],
) -> None:
    repository = checkout(LEVELS)
    status = run("HEAD~3", *measure, "{results}")
    output = capsys.readouterr().out
    assert status == 3, output
    assert "confirmed: a.work (kvm, emulated) is worse by " in output
    short = repository.git("show", "--no-patch", "--format=%h", repository.commits[2])
    assert f"first bad commit: {short}" in output
    assert "change 2" in output.splitlines()[-1]
    assert repository.worktrees == 1, "worktrees are left"
    files = list((tmp_path / "results" / "bisect").rglob("*.parquet"))
    assert len(files) >= 24, "the runs are kept"


@pytest.mark.slow
def test_equal_revisions_are_no_regression(
    measure: list[str],
    checkout: Checkout,
    capsys: pytest.CaptureFixture[str],
) -> None:
    checkout(["10", "10"])
    assert run("HEAD~1", *measure, "{results}") == 0
    assert "no regression is confirmed" in capsys.readouterr().out


@pytest.mark.slow
def test_unmeasurable_commit_is_skipped(
    measure: list[str],
    checkout: Checkout,
    capsys: pytest.CaptureFixture[str],
) -> None:
    repository = checkout(["10", "10", "broken", "13"])
    assert run("HEAD~3", *measure, "{results}") == 3
    output = capsys.readouterr().out
    assert "skipped: the command left 0 runs" in output
    assert "or one of the 1 commits before it that could not be measured" in output
    assert repository.worktrees == 1


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("HEAD", "HEAD"), "both revisions are"),
        (("no-such-branch",), "git knows no revision 'no-such-branch'"),
        (("HEAD", "HEAD~1"), "must be an ancestor of"),
        (("HEAD~1", "--command"), "--command has no words"),
        (("HEAD~1", "--results", "sftp://host/path"), "bisect cannot write to a URL"),
        (("--upload-pack=x",), None),
    ],
)
def test_invalid_arguments_are_refused(
    checkout: Checkout,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    what: str | None,
) -> None:
    checkout(["10", "10"])
    if what is None:
        with pytest.raises(SystemExit):
            run(*words)
        return
    assert run(*words) == 1
    assert what in capsys.readouterr().err


def test_too_few_rounds_are_refused(
    measure: list[str],
    checkout: Checkout,
    capsys: pytest.CaptureFixture[str],
) -> None:
    repository = checkout(["10", "13"])
    assert run("HEAD~1", "--rounds", "5", *measure, "{results}") == 1
    assert "5 rounds cannot show a regression among 1 figures" in capsys.readouterr().err
    assert run("HEAD~1", "--series", "feed", *measure, "{results}") == 1
    assert "have no figure feed" in capsys.readouterr().err
    assert repository.worktrees == 1


def test_missing_command_is_an_error(
    tmp_path: Path, checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = checkout(["10", "13"])
    words = ("HEAD~1", "--results", str(tmp_path / "r"), "--command", "/no/such/program")
    assert run(*words) == 1
    assert "/no/such/program cannot be run" in capsys.readouterr().err
    assert repository.worktrees == 1


def test_missing_repository_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("HEAD") == 1
    assert "not a git repository" in capsys.readouterr().err
