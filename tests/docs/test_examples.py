"""Every example of README.md and docs/ runs in its own session; tests/real runs the others."""

from __future__ import annotations

import os

import pytest

from tests.docs.examples import ROOT, Example, all_examples, examples
from tests.plugin.conftest import Run
from tests.plugin.conftest import run as run  # noqa: PLC0414 - the fixture


def test_both_kinds_of_examples_exist() -> None:
    assert examples(boots_kernel=False)
    assert examples(boots_kernel=True)


def test_example_without_tests_is_part_of_complete_one() -> None:
    """Other code in the docs is an excerpt of a file in examples/, which has tests."""
    sources = [path.read_text() for path in (ROOT / "examples").rglob("*.py")]
    fragments = [one for one in all_examples() if not one.test_count]
    assert [one.name for one in fragments if not any(one.source in text for text in sources)] == []


@pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="/dev/kvm is missing or not accessible"
)
@pytest.mark.parametrize("example", examples(boots_kernel=False), ids=lambda one: one.name)
def test_payload_example_passes(run: Run, example: Example) -> None:
    run(example.source, hypervisor="").assert_outcomes(passed=example.test_count)
