"""Runs each fuzz target briefly with Hypothesis. `python -m tests.vmm.fuzz` runs them longer."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.vmm import fuzz
from tests.vmm.targets import TARGETS


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    with fuzz.hang_detection():
        yield


@pytest.mark.parametrize("name", sorted(TARGETS))
@settings(
    max_examples=200,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.binary(max_size=400))
def test_only_allowed_outcomes(name: str, data: bytes) -> None:
    fuzz.run_input(TARGETS[name], data)


def test_hang_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(source: fuzz.Source) -> None:
        while True:
            pass

    monkeypatch.setattr(fuzz, "HANG", 0.01)
    with pytest.raises(fuzz.Hang):
        fuzz.run_input(endless, b"")
