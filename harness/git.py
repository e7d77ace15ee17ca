"""What is asked of git."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness.errors import HarnessError


def git(directory: Path, *words: str, timeout: float | None = None) -> str:
    """What a command of git's prints in a checkout. timeout: seconds. Raises HarnessError when it
    fails or is late."""
    argv = ["git", "-C", str(directory), *words]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    except OSError as error:
        raise HarnessError(f"git cannot be run: {error}", hint="Install git.") from error
    except subprocess.TimeoutExpired as error:
        raise HarnessError(f"git {words[0]}: no answer within {timeout:g} s") from error
    if done.returncode:
        raise HarnessError(f"git {words[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def commit_of(directory: Path, revision: str, timeout: float | None = None) -> str:
    """The commit that git knows by a name (a branch, a tag, HEAD~3). Raises HarnessError."""
    wanted = f"{revision}^{{commit}}"
    words = ("rev-parse", "--verify", "--quiet", "--end-of-options", wanted)
    return git(directory, *words, timeout=timeout)
