"""Calls of the program git."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness.errors import HarnessError


def git(directory: Path, *arguments: str, timeout: float | None = None) -> str:
    """Run git in a checkout and return its output.

    timeout: seconds. Raises HarnessError when git fails or is late.
    """
    argv = ["git", "-C", str(directory), *arguments]
    try:
        result = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    except OSError as error:
        raise HarnessError(f"git cannot be run: {error}", hint="install git") from error
    except subprocess.TimeoutExpired as error:
        raise HarnessError(f"git {arguments[0]} did not end within {timeout:g} s") from error
    if result.returncode:
        raise HarnessError(f"git {arguments[0]}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout.strip()


def commit_of(directory: Path, revision: str, timeout: float | None = None) -> str:
    """The commit of a revision: a branch, a tag, HEAD~3. Raises HarnessError."""
    options = ("--verify", "--quiet", "--end-of-options")
    return git(directory, "rev-parse", *options, f"{revision}^{{commit}}", timeout=timeout)
