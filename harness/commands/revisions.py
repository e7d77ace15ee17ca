"""Measurement of git revisions: each in its own worktree, by a command that leaves one run.

The runs are kept in DIR/bisect/<time>/<commit>, separate from the nightly runs.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import scratch
from harness.errors import HarnessError
from harness.git import commit_of, git
from harness.plugin.ordering import alternate
from harness.results.store import runs
from harness.run_id import new_run_id


class Repository:
    """The git repository of a directory. Raises HarnessError when there is none."""

    def __init__(self, directory: Path) -> None:
        self.root = Path(git(directory, "rev-parse", "--show-toplevel"))

    def git(self, *arguments: str) -> str:
        return git(self.root, *arguments)

    def commit(self, revision: str) -> str:
        """The commit of a revision. Raises HarnessError when git does not know it."""
        try:
            return commit_of(self.root, revision)
        except HarnessError as error:
            raise HarnessError(
                f"git knows no revision {revision!r}", hint="name a commit, a branch or a tag"
            ) from error

    def commits_between(self, base: str, new: str) -> list[str]:
        """The commits after base up to new, oldest first, along the first parents.

        Raises HarnessError when base is no ancestor of new.
        """
        try:
            self.git("merge-base", "--is-ancestor", base, new)
        except HarnessError as error:
            raise HarnessError(
                f"{base[:12]} must be an ancestor of {new[:12]}",
                hint="name an ancestor of the bad revision, or use --only-confirm",
            ) from error
        return self.git("rev-list", "--reverse", "--first-parent", f"{base}..{new}").split()

    def subject(self, commit: str) -> str:
        """Abbreviated id, subject, author and date of a commit."""
        return self.git("show", "--no-patch", "--format=%h %s (%an, %as)", commit)


@dataclass(frozen=True)
class RevisionRunner:
    """Runs the measuring command on commits, each in a worktree below `trees`.

    results: directory of the runs. command: its arguments; "{results}" in one is replaced by the
    directory for the run. log: receives lines of progress. worktrees: by commit.
    """

    repository: Repository
    trees: Path
    results: Path
    command: Sequence[str]
    log: Callable[[str], None]
    worktrees: dict[str, Path] = field(default_factory=dict)

    def measure(self, commit: str) -> Path:
        """Measure a commit; return the run file. Raises HarnessError when there is not one run."""
        if commit not in self.worktrees:
            tree = self.trees / commit[:12]
            self.repository.git("worktree", "add", "--detach", "--force", str(tree), commit)
            self.worktrees[commit] = tree
        directory = self.results / commit[:12]
        before = set(runs(directory))
        argv = [word.replace("{results}", str(directory)) for word in self.command]
        start = time.monotonic()
        log = self.results / f"{commit[:12]}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("ab") as stream:
                process = subprocess.run(
                    argv, cwd=self.worktrees[commit], stdout=stream, stderr=stream, check=False
                )
        except OSError as error:
            raise HarnessError(
                f"{argv[0]} cannot be run: {error.strerror}",
                hint="use --command with a program that exists",
            ) from error
        files = sorted(set(runs(directory)) - before)
        self.log(f"  {commit[:12]}: {time.monotonic() - start:.1f} s")
        if len(files) != 1:
            raise HarnessError(
                f"the command left {len(files)} runs of {commit[:12]} (exit status "
                f"{process.returncode}): see {log}",
                hint="use a command that measures its working directory and writes one run to "
                "{results}",
            )
        return files[0]

    def measure_pairs(self, base: str, new: str) -> Iterator[tuple[Path, Path]]:
        """Measure pairs of runs (base, new) in the order A B B A, without end."""
        for number in itertools.count():
            self.log(f"pair {number + 1}: {base[:12]}, {new[:12]}")
            order = alternate((base, new), number)
            files = {commit: self.measure(commit) for commit in order}
            yield files[base], files[new]


@contextlib.contextmanager
def revision_runner(
    repository: Repository, store: Path, command: Sequence[str], log: Callable[[str], None]
) -> Iterator[RevisionRunner]:
    """A runner whose worktrees are removed at the end of the block; its runs stay."""
    results = (store / "bisect" / new_run_id()).resolve()
    try:
        with scratch.directory() as trees:
            runner = RevisionRunner(repository, trees, results, command, log)
            try:
                yield runner
            finally:
                for tree in runner.worktrees.values():
                    with contextlib.suppress(HarnessError):
                        repository.git("worktree", "remove", "--force", str(tree))
    finally:
        with contextlib.suppress(HarnessError):
            repository.git("worktree", "prune")
