"""./dev: its help, and what --no-install does where something is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# programs that ./dev itself calls
SHELL_TOOLS = ("nproc", "sh", "cat", "date", "dirname", "grep", "id", "printf", "sort")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH that has the shell's tools only."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in SHELL_TOOLS:
        (folder / name).symlink_to(Path("/usr/bin") / name)
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that has ./dev and no virtual environment."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    text = (ROOT / "dev").read_text()
    # The folders of Debian's that ./dev adds to PATH hold programs of the machine.
    (folder / "dev").write_text(text.replace("$PATH:/usr/sbin:/sbin", "$PATH"))
    return folder


def run_dev(checkout: Path, *arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(checkout / "dev"), *arguments],
        env={"PATH": str(path), "HOME": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )


def fake_python(folder: Path, script: str) -> None:
    path = folder / "python3"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def with_all_programs(folder: Path) -> None:
    for name in (
        *("git", "gcc", "qemu-system-x86_64", "qemu-storage-daemon", "fio", "passt"),
        *("ssh", "sshd", "chromium", "chromedriver"),
    ):
        (folder / name).symlink_to(Path(sys.executable))


@pytest.mark.parametrize("arguments", [["--help"], ["help"], ["--no-install", "-h"]])
def test_help_names_commands_and_options(arguments: list[str]) -> None:
    done = subprocess.run(
        [str(ROOT / "dev"), *arguments], capture_output=True, text=True, check=True
    )
    for word in ("setup", "suites", "test", "docs", "--no-install"):
        assert f"  {word} " in done.stdout


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["--no-install"]])
def test_unknown_command_prints_usage_and_fails(arguments: list[str]) -> None:
    done = subprocess.run(
        [str(ROOT / "dev"), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ./dev")


def test_no_install_names_missing_packages(checkout: Path, programs: Path) -> None:
    done = run_dev(checkout, "--no-install", "test", path=programs)
    assert done.returncode == 1
    assert "programs of these Debian packages are missing:" in done.stderr
    assert "qemu-system-x86" in done.stderr
    assert "dev: hint: install them" in done.stderr


@pytest.mark.skipif(not os.access("/usr/include/stdio.h", os.R_OK), reason="needs libc6-dev")
def test_no_install_creates_no_environment(checkout: Path, programs: Path) -> None:
    with_all_programs(programs)
    fake_python(programs, "exit 1")
    done = run_dev(checkout, "--no-install", "test", path=programs)
    assert done.returncode == 1
    assert "no Python environment has all of these modules: pytest" in done.stderr
    assert sorted(path.name for path in checkout.iterdir()) == ["dev"]


@pytest.mark.skipif(not os.access("/usr/include/stdio.h", os.R_OK), reason="needs libc6-dev")
def test_no_install_builds_no_image(checkout: Path, programs: Path) -> None:
    with_all_programs(programs)
    fake_python(programs, 'echo "$*" >>calls')
    done = run_dev(checkout, "--no-install", "test", path=programs)
    assert done.returncode == 1
    assert "there is no up-to-date guest image" in done.stderr
    assert "images build" not in (checkout / "calls").read_text()


@pytest.mark.skipif(not os.access("/usr/include/stdio.h", os.R_OK), reason="needs libc6-dev")
def test_no_install_runs_fast_tests_without_image(checkout: Path, programs: Path) -> None:
    with_all_programs(programs)
    fake_python(programs, 'echo "$*" >>calls')
    done = run_dev(checkout, "--no-install", "test", "-m", "not emulated", path=programs)
    assert done.returncode == 0, done.stderr
    *_, last = (checkout / "calls").read_text().splitlines()
    parallel = f"-n {len(os.sched_getaffinity(0)) + 1} --maxprocesses 5"
    assert last == f"-m pytest tests {parallel} -m not emulated"
    assert "dev: stages: tests 0 s" in done.stderr or "dev: stages: tests 1 s" in done.stderr
