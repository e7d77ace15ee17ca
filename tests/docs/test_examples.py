"""Every example of docs/ is run, as a session of its own; those with a kernel in tests/real."""

from __future__ import annotations

import os

import pytest

from tests.docs.examples import Example, examples
from tests.plugin.conftest import Run
from tests.plugin.conftest import run as run  # noqa: PLC0414 - the fixture


def test_there_are_examples_of_both_kinds() -> None:
    assert all(one.tests for kernel in (False, True) for one in examples(kernel))
    assert examples(kernel=False)
    assert examples(kernel=True)


@pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="/dev/kvm is not there or not ours"
)
@pytest.mark.parametrize("example", examples(kernel=False), ids=lambda one: one.name)
def test_of_payloads(run: Run, example: Example) -> None:
    run(example.source, hypervisor="").assert_outcomes(passed=example.tests)
