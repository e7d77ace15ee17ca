"""Selection of runs by name, date, commit, or position in the store."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, ResultError
from harness.git import commit_of
from harness.results.schema import RunFacts
from harness.results.store import facts_of, readable_files, runs

NEWEST = {"latest": -1, "previous": -2}
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_MIN_PREFIX = 9  # longer than a date, which is the start of many names


@dataclass(frozen=True)
class RunSelection:
    """Runs that form one side of a comparison.

    label: the selector. files, facts: oldest first. problems: unreadable runs of the store, which
    the selector might match too.
    """

    label: str
    files: Sequence[Path]
    facts: Sequence[RunFacts]
    problems: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        return [path.stem for path in self.files]


def select_runs(store: Path, selector: str) -> RunSelection:
    """The runs of a store that match a selector.

    selector: a run's file, its name or the start of its name; a date (2026-11-23: all runs of that
    day, UTC); a commit (7 digits or more: all its runs); "latest" or "previous"; or a revision of
    the git repository in the current directory (a branch, a tag, HEAD~3). Raises ResultError when
    nothing matches, or when the start of a name is ambiguous.
    """
    if selector.endswith(".parquet"):
        return _selection(selector, [Path(selector)])
    files = runs(store)
    readable, problems = readable_files(files)
    if selector in NEWEST:
        if len(files) < -NEWEST[selector]:
            raise _no_match(store, selector, readable)
        # A broken newest run is an error: another one must not replace it.
        return _selection(selector, [files[NEWEST[selector]]])
    broken = [path for path in files if path not in readable]
    for path in [*_by_name(broken, selector), *_by_date(broken, selector)]:
        facts_of(path)  # raises, with the reason
    ways: tuple[Callable[[], list[Path]], ...] = (
        lambda: _by_name(readable, selector),
        lambda: _by_date(readable, selector),
        lambda: _by_commit(readable, selector) if _COMMIT.fullmatch(selector) else [],
        lambda: _by_commit(readable, _resolve_revision(selector)),
    )
    for way in ways:
        if matches := way():
            return _selection(selector, matches, problems)
    raise _no_match(store, selector, readable)


def _selection(label: str, files: list[Path], problems: Sequence[str] = ()) -> RunSelection:
    return RunSelection(label, files, [facts_of(path) for path in files], problems)


def _by_name(files: list[Path], name: str) -> list[Path]:
    """By the run's name, or by a start of it that is longer than a date."""
    if len(name) < _MIN_PREFIX:
        return []
    matches = [path for path in files if path.stem.startswith(name)]
    if len(matches) > 1:
        names = ", ".join(path.stem for path in matches[:5])
        raise ResultError(
            f"{name!r} begins the names of {len(matches)} runs: {names}",
            hint="name one run in full",
        )
    return matches


def _by_date(files: list[Path], date: str) -> list[Path]:
    match = _DATE.fullmatch(date)
    return [path for path in files if match and path.stem.startswith("".join(match.groups()))]


def _by_commit(files: list[Path], commit: str) -> list[Path]:
    """Runs of a commit, without those of a modified checkout."""
    if not commit:
        return []
    commits = [(path, facts_of(path).get("commit", "")) for path in files]
    return [path for path, one in commits if one.startswith(commit) and not one.endswith("-dirty")]


def _resolve_revision(revision: str) -> str:
    """The commit of a revision in the current directory's repository; "" when git knows none."""
    try:
        return commit_of(Path(), revision, timeout=20)
    except HarnessError:
        return ""


def _no_match(store: Path, selector: str, files: list[Path]) -> ResultError:
    newest = ", ".join(path.stem for path in files[-3:])
    return ResultError(
        f"{store} holds no run that matches {selector!r}",
        hint="name a run, a date (2026-11-23), a commit, latest or previous; "
        + (f"the newest runs are {newest}" if newest else "the store is empty"),
    )
