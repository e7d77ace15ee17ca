"""What guests measured, handed to pytest-benchmark while the session goes on.

So its own options hold for it: --benchmark-json, --benchmark-save, --benchmark-autosave,
--benchmark-compare, --benchmark-compare-fail, --benchmark-histogram, --benchmark-only and
--benchmark-skip. Without any of them there is nothing to hand over: our own report tells it all.
What is a benchmark, and in which unit: harness/results/exchange/benchmark_json.py.
"""

# ruff: noqa: PLC0415 - every pytest run loads the plugin: heavy imports wait for a test in need
from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from harness.results.schema import Sample

_ASKED = ("json", "save", "autosave", "compare", "histogram", "only")
_ABOUT = ("metric", "unit", "better", "hypervisor", "backend", "host", "image", "suite", "test")


def _session_of(config: pytest.Config) -> Any:
    """Pytest-benchmark's own session; None where the plugin is not active."""
    return getattr(config, "_benchmarksession", None)


class Feed:
    """Hands samples over: every sample is a round of its benchmark."""

    def __init__(self, config: pytest.Config) -> None:
        theirs = _session_of(config)
        asked = any(config.getoption(f"benchmark_{name}", None) for name in _ASKED)
        takes = theirs is not None and asked and not theirs.disabled
        self._to = theirs.benchmarks if takes else None
        self._made: dict[str, Any] = {}
        self._tried: dict[tuple[str, str], list[float]] = {}  # first attempts, by test

    def add(self, sample: Sample) -> None:
        """One more; what is no time and no rate is left out."""
        if self._to is None:
            return
        from harness.results.exchange.benchmark_json import OPTIONS, in_seconds, named

        if (seconds := in_seconds(sample.value, sample.unit, sample.better)) is None:
            return
        about = {name: str(getattr(sample, name)) for name in _ABOUT}
        about["test"] = sample.test.partition("[")[0]
        known = named(about, sample.parameters)
        if known["fullname"] not in self._made:
            from pytest_benchmark.stats import Metadata

            fixture = SimpleNamespace(**known, cprofile_stats=None, has_error=False)
            metadata: Any = Metadata  # which has no types
            made = self._made[known["fullname"]] = metadata(fixture, 1, dict(OPTIONS))
            self._to.append(made)
        rounds = self._made[known["fullname"]]
        tried = self._tried.setdefault((known["fullname"], sample.test), [])
        if sample.attempt == 1:
            tried.append(seconds)
        while sample.attempt > 1 and tried:  # of a test that runs once more, the second one counts
            rounds.stats.data.remove(tried.pop())
        rounds.update(seconds)


def choose(
    config: pytest.Config,
    items: Sequence[pytest.Item],
    measures: Callable[[pytest.Item], bool],
) -> None:
    """--benchmark-only and --benchmark-skip, with tests that measure in guests among the
    benchmarks."""
    theirs = _session_of(config)
    if theirs is None:
        return
    only, theirs.only = theirs.only, False  # it would skip those that have not its own fixture
    for item in items:
        if "benchmark" in getattr(item, "fixturenames", ()):
            continue
        if only and not measures(item):
            reason = "Skipping non-benchmark (--benchmark-only active)."
            item.add_marker(pytest.mark.skip(reason=reason))
        elif theirs.skip and measures(item):
            reason = "Skipping benchmark (--benchmark-skip active)."
            item.add_marker(pytest.mark.skip(reason=reason))
