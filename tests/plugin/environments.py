"""Virtual environments with other versions of pytest or with other plugins, for subprocesses.

An environment lies in the XDG cache and holds only the requirements that it names. Everything else
comes from the environment that runs the tests.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from filelock import FileLock

INSTALL_TIMEOUT = 300.0  # seconds


def python_with(cache: Path, requirements: list[str]) -> Path:
    """The Python program of an environment with these requirements; makes it if it is missing.

    cache: the XDG cache folder. Skips the test when the package registry is not reachable.
    """
    key = hashlib.sha256("\n".join([sys.version, sys.prefix, *requirements]).encode())
    folder = cache / "pytest-hypervisor" / "environments" / key.hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    python = folder / "bin" / "python"
    with FileLock(f"{folder}.lock"):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, symlinks=True)
            _inherit(folder)
            _install(python, requirements)
            (folder / "complete").touch()
    return python


def _inherit(folder: Path) -> None:
    """Make the packages of the present environment visible, after the new one's own."""
    (site_packages,) = folder.glob("lib/python*/site-packages")
    lines = [
        f"import site; site.addsitedir({path!r})" for path in sys.path if "site-packages" in path
    ]
    (site_packages / "inherited.pth").write_text("\n".join(lines) + "\n")


def _install(python: Path, requirements: list[str]) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    try:
        done = subprocess.run(
            [*command, "--retries=1", "--timeout=15", *requirements],
            env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package registry did not answer within {INSTALL_TIMEOUT:g} s")
    if done.returncode:
        unreachable = ("NewConnectionError", "NameResolutionError", "No matching distribution")
        if any(word in done.stdout + done.stderr for word in unreachable):
            pytest.skip(f"the package registry is not reachable: {done.stderr.strip()[-200:]}")
        raise RuntimeError(f"{requirements} cannot be installed:\n{done.stdout}{done.stderr}")
