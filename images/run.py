"""Runs the programs that builds need; errors name the Debian package to install."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import ImageError

# program -> Debian package
PROGRAMS = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "gcc": "gcc libc6-dev",
    "genext2fs": "genext2fs",
}


def require_programs(path: str | None = None) -> None:
    """Raise ImageError that names the Debian package of every missing build program.

    Args:
        path: the search path; $PATH by default.
    """
    missing = {name: deb for name, deb in PROGRAMS.items() if not shutil.which(name, path=path)}
    if missing:
        raise ImageError(
            f"programs to build images are missing: {', '.join(missing)}",
            hint=f"on Debian, run apt-get install {' '.join(missing.values())}",
            stage="image",
        )


def run(
    argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> bytes:
    """Run a program and return its standard output.

    Raises:
        ImageError: it ended with another status than 0; the error quotes its output.
    """
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, check=False)
    if done.returncode:
        output = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise ImageError(
            f"{argv[0]} ended with status {done.returncode}: {output[-1500:] or '(no output)'}",
            hint="fix the error that the program names, and run again",
            stage="image",
        )
    return done.stdout
