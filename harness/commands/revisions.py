"""Two revisions of a checkout measured in turn, and the commit between them that made it worse.

Each revision is checked out in a worktree of its own. A command measures it there and leaves one
run; the runs stay in DIR/bisect/<time>/<commit>, apart from the nightly ones.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import scratch
from harness.errors import HarnessError, ResultError
from harness.git import commit_of, git
from harness.plugin.ordering import alternate
from harness.results import new_run_id
from harness.results.compare import SERIES, figure, levels, worse_by
from harness.results.paired import enough, paired
from harness.results.store import runs


class Repository:
    """A git checkout. Raises HarnessError when it is none."""

    def __init__(self, directory: Path) -> None:
        self.root = Path(git(directory, "rev-parse", "--show-toplevel"))

    def git(self, *words: str) -> str:
        return git(self.root, *words)

    def commit(self, revision: str) -> str:
        """Raises HarnessError when git knows none by that name."""
        try:
            return commit_of(self.root, revision)
        except HarnessError as error:
            raise HarnessError(
                f"git knows no revision {revision!r}", hint="Name a commit, a branch or a tag."
            ) from error

    def between(self, base: str, new: str) -> list[str]:
        """The commits after base up to new, oldest first, along the first parents.

        Raises HarnessError when base is no ancestor of new."""
        try:
            self.git("merge-base", "--is-ancestor", base, new)
        except HarnessError as error:
            raise HarnessError(
                f"{base[:12]} is no ancestor of {new[:12]}: there is no way between them",
                hint="Name a good revision that the bad one was made from, or say --only-confirm.",
            ) from error
        return self.git("rev-list", "--reverse", "--first-parent", f"{base}..{new}").split()

    def subject(self, commit: str) -> str:
        return self.git("show", "--no-patch", "--format=%h %s (%an, %as)", commit)


@dataclass(frozen=True)
class Measurer:
    """Measures commits, each in a worktree of its own below `trees`.

    kept: where the runs stay. command: its words; "{results}" in one is the directory for the run.
    tell: takes a line of progress. worktrees: those that were made, by commit.
    """

    repository: Repository
    trees: Path
    kept: Path
    command: Sequence[str]
    tell: Callable[[str], None]
    worktrees: dict[str, Path] = field(default_factory=dict)

    def measure(self, commit: str) -> Path:
        """The run file of one measurement. Raises HarnessError when the command left none."""
        if commit not in self.worktrees:
            tree = self.trees / commit[:12]
            self.repository.git("worktree", "add", "--detach", "--force", str(tree), commit)
            self.worktrees[commit] = tree
        place = self.kept / commit[:12]
        before = set(runs(place))
        argv = [word.replace("{results}", str(place)) for word in self.command]
        start = time.monotonic()
        log = self.kept / f"{commit[:12]}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("ab") as stream:
                done = subprocess.run(
                    argv, cwd=self.worktrees[commit], stdout=stream, stderr=stream, check=False
                )
        except OSError as error:
            raise HarnessError(f"{argv[0]} cannot be run: {error.strerror}") from error
        made = sorted(set(runs(place)) - before)
        self.tell(f"  {commit[:12]}: {time.monotonic() - start:.1f} s")
        if len(made) != 1:
            raise HarnessError(
                f"the command left {len(made)} runs of {commit[:12]} (exit status "
                f"{done.returncode}): see {log}",
                hint="It must measure the checkout that it is started in, and write to {results}.",
            )
        return made[0]

    def in_turn(self, base: str, new: str) -> Iterator[tuple[Path, Path]]:
        """Pairs of runs, base and new, measured A B B A, as many as are taken."""
        for number in itertools.count():
            self.tell(f"pair {number + 1}: {base[:12]}, {new[:12]}")
            order = alternate((base, new), number)
            made = {commit: self.measure(commit) for commit in order}
            yield made[base], made[new]


@contextlib.contextmanager
def measuring(
    repository: Repository, results: Path, command: Sequence[str], tell: Callable[[str], None]
) -> Iterator[Measurer]:
    """A measurer whose worktrees go at the block's end; the runs stay."""
    kept = (results / "bisect" / new_run_id()).resolve()
    try:
        with scratch.directory() as trees:
            made = Measurer(repository, trees, kept, command, tell)
            try:
                yield made
            finally:
                for tree in made.worktrees.values():
                    with contextlib.suppress(HarnessError):
                        repository.git("worktree", "remove", "--force", str(tree))
    finally:
        with contextlib.suppress(HarnessError):
            repository.git("worktree", "prune")


@dataclass(frozen=True)
class Confirmed:
    """A figure that is worse; row: of paired.Paired.table."""

    row: dict[Any, Any]

    @property
    def words(self) -> str:
        row = self.row
        return (
            f"{figure(row)} ({row['hypervisor']}, {row['backend']}) is worse by {worse_by(row)}, "
            f"p {row['p']:.3g}, {row['pairs']} pairs: {levels(row)}"
        )


def confirm(
    measurer: Measurer, base: str, new: str, rounds: int | None = None, series: str = ""
) -> Confirmed | None:
    """The figure (by its id, else the one that became worst) that is confirmed to be worse; None
    when there is none.

    rounds: pairs; None for as many as it takes to show one among all figures. Raises HarnessError
    when so few could show nothing, and when a measurement fails.
    """
    if base == new:
        raise HarnessError(f"both revisions are {base[:12]}")
    turns = measurer.in_turn(base, new)
    pairs = [next(turns)]
    figures = len(paired(pairs, series).table)
    needed = enough(figures)
    if rounds is not None and rounds < needed:
        raise HarnessError(
            f"{rounds} rounds can show nothing among {figures} figures",
            hint=f"Take {needed}, or name one figure with --series (then {enough(1)} are enough).",
        )
    pairs += itertools.islice(turns, (rounds or needed) - 1)
    table = paired(pairs, series).regressed
    return Confirmed(table.iloc[0].to_dict()) if len(table) else None


def bisect(measurer: Measurer, base: str, new: str, found: Confirmed) -> list[str]:
    """Tells the first commit at which a confirmed figure is worse by more than half of it.

    A commit that cannot be measured is passed over. Raises HarnessError when base is no ancestor
    of new.
    """
    commits = measurer.repository.between(base, new)
    good, bad = -1, len(commits) - 1  # places; good: before the first
    broken: set[int] = set()
    while candidates := [n for n in range(good + 1, bad) if n not in broken]:
        middle = min(candidates, key=lambda n: abs(n - (good + bad) / 2))
        commit = commits[middle]
        measurer.tell(f"{bad - good - 1} commits to tell apart; now {commit[:12]}")
        try:
            worse = _worse(measurer, base, commit, found)
        except (HarnessError, ResultError) as error:
            measurer.tell(f"passed over: {error}")
            broken.add(middle)
            continue
        if worse > found.row["effect"] / 2:
            bad = middle
        else:
            good = middle
    told = [f"first worse: {measurer.repository.subject(commits[bad])}"]
    if bad - good > 1:
        told.append(f"or one of the {bad - good - 1} before it that could not be measured")
    return told


def _worse(measurer: Measurer, base: str, commit: str, found: Confirmed) -> float:
    """By how much the figure is worse there than at base."""
    table = paired(list(itertools.islice(measurer.in_turn(base, commit), enough(1)))).table
    mine = table[(table[SERIES] == [found.row[name] for name in SERIES]).all(axis=1)]
    if mine.empty:
        raise ResultError(f"{commit[:12]} does not measure {found.row['metric']}")
    row = mine.iloc[0].to_dict()
    measurer.tell(f"  worse by {worse_by(row)}")
    return float(row["effect"])
