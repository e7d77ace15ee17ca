"""Which tests a run has, and which of them share a worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import EMULATED_FILES

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
LONG, SLOW = "tests/real/test_conformance.py", "tests/commands/test_bisect.py"


def collected(*arguments: str) -> list[str]:
    """The node ids that a run of the tests in LONG and SLOW collects."""
    named = arguments if any("::" in one for one in arguments) else (*arguments, LONG, SLOW)
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *named]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.parametrize(
    ("arguments", "long", "slow", "others"),
    [
        ([], False, True, True),
        (["-m", "not emulated"], False, False, True),
        (["-m", "slow"], False, True, False),
        (["-m", "long"], True, False, False),
        (["-m", "slowest or not emulated"], False, False, True),
        ([f"{LONG}::test_example_of_the_manual_conforms"], True, False, False),
    ],
)
def test_slow_and_long_tests_run_when_they_are_asked_for(
    arguments: list[str], long: bool, slow: bool, others: bool
) -> None:
    ids = collected(*arguments)
    assert any("test_example_of_the_manual" in one for one in ids) is long
    assert any("test_first_bad_commit" in one for one in ids) is slow
    assert any("test_too_few_rounds" in one for one in ids) is others


def test_scheduler_knows_all_files_with_emulated_hosts() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "emulated or long"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    ids = [line for line in done.stdout.splitlines() if "::" in line]
    assert len(ids) > 100
    known = tuple(name for part in EMULATED_FILES for name in part)
    assert [one for one in ids if not one.startswith(known)] == []
