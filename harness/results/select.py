"""Which runs are meant: by a run's name, its commit, its date, or its place among the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, ResultError
from harness.git import commit_of
from harness.results.schema import RunFacts
from harness.results.store import facts_of, runs, usable

NEWEST = {"latest": -1, "previous": -2}
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")


@dataclass(frozen=True)
class Selected:
    """Runs that stand for one thing. label: as they were asked for. files, facts: oldest first.
    problems: runs of the store that cannot be read, and may be meant, too."""

    label: str
    files: Sequence[Path]
    facts: Sequence[RunFacts]
    problems: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        return [path.stem for path in self.files]


def select(store: Path, word: str) -> Selected:
    """The runs of a store that a word means.

    word: a run's file, or its name (or how that begins); a date (2026-11-23: all runs of that day,
    UTC); a commit (7 digits or more: all its runs); "latest" or "previous"; or whatever git here
    knows a commit by (a branch, a tag, HEAD~3). Raises ResultError when there is none, or when the
    start of a name fits several.
    """
    if word.endswith(".parquet"):
        return _made(word, [Path(word)])
    there = runs(store)
    found, problems = usable(there)
    if word in NEWEST:
        if len(there) < -NEWEST[word]:
            raise _nothing(store, word, found)
        return _made(word, [there[NEWEST[word]]])  # a broken one is an error, not another's turn
    broken = [path for path in there if path not in found]
    for path in [*_named(broken, word), *_dated(broken, word)]:
        facts_of(path)  # raises, with the reason
    ways: tuple[Callable[[], list[Path]], ...] = (
        lambda: _named(found, word),
        lambda: _dated(found, word),
        lambda: _of_commit(found, word) if _COMMIT.fullmatch(word) else [],
        lambda: _of_commit(found, _commit(word)),
    )
    for way in ways:
        if chosen := way():
            return _made(word, chosen, problems)
    raise _nothing(store, word, found)


def _made(label: str, files: list[Path], problems: Sequence[str] = ()) -> Selected:
    return Selected(label, files, [facts_of(path) for path in files], problems)


def _named(found: list[Path], word: str) -> list[Path]:
    """A run's whole name, or a start of it that is longer than a date."""
    fits = [path for path in found if path.stem.startswith(word)] if len(word) > 8 else []
    if len(fits) > 1:
        names = ", ".join(path.stem for path in fits[:5])
        raise ResultError(f"{word!r} begins the names of {len(fits)} runs: {names}")
    return fits


def _dated(found: list[Path], word: str) -> list[Path]:
    match = _DATE.fullmatch(word)
    return [path for path in found if match and path.stem.startswith("".join(match.groups()))]


def _of_commit(found: list[Path], commit: str) -> list[Path]:
    """Of a checkout without changes of its own."""
    if not commit:
        return []
    told = [(path, facts_of(path).get("commit", "")) for path in found]
    return [path for path, its in told if its.startswith(commit) and not its.endswith("-dirty")]


def _commit(word: str) -> str:
    """What git here resolves it to; "" when nothing."""
    try:
        return commit_of(Path(), word, timeout=20)
    except HarnessError:
        return ""


def _nothing(store: Path, word: str, found: list[Path]) -> ResultError:
    newest = ", ".join(path.stem for path in found[-3:])
    return ResultError(
        f"{store} holds no run that {word!r} means",
        hint="Name a run, a date (2026-11-23), a commit, latest or previous; "
        + (f"the newest runs are {newest}." if newest else "there are no runs at all."),
    )
