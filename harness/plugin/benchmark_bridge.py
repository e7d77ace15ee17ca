"""Gives samples from guests to pytest-benchmark while the session runs.

So its own options apply to them: --benchmark-json, --benchmark-save, --benchmark-autosave,
--benchmark-compare, --benchmark-compare-fail, --benchmark-histogram, --benchmark-only and
--benchmark-skip. Without these options it gets no samples. Which samples are benchmarks, and in
which unit: harness/results/exchange/benchmark_json.py.
"""

# ruff: noqa: PLC0415 - every pytest run loads this module, so heavy imports are inside functions
from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from harness.plugin.item_usage import measures
from harness.plugin.pytest_compat import benchmark_session

if TYPE_CHECKING:
    from harness.results.schema import Sample

_OPTIONS = ("json", "save", "autosave", "compare", "histogram", "only")
_IDENTITY = ("metric", "unit", "better", "hypervisor", "backend", "host", "image", "suite", "test")


class BenchmarkFeed:
    """Makes every sample a round of its benchmark in pytest-benchmark's session."""

    def __init__(self, config: pytest.Config) -> None:
        theirs = benchmark_session(config)
        requested = any(config.getoption(f"benchmark_{name}", None) for name in _OPTIONS)
        active = theirs is not None and requested and not theirs.disabled
        self._benchmarks = theirs.benchmarks if active else None
        self._by_name: dict[str, Any] = {}
        # node id -> (benchmark, value) of each sample
        self._of_item: dict[str, list[tuple[str, float]]] = {}

    def add(self, sample: Sample) -> None:
        """Add one sample. Samples that are neither a time nor a rate are ignored."""
        if self._benchmarks is None:
            return
        from harness.results.exchange.benchmark_json import OPTIONS, benchmark_fields, in_seconds

        if (seconds := in_seconds(sample.value, sample.unit, sample.better)) is None:
            return
        identity = {name: str(getattr(sample, name)) for name in _IDENTITY}
        fields = benchmark_fields(identity, sample.parameters)
        name = fields["fullname"]
        if name not in self._by_name:
            from pytest_benchmark.stats import Metadata

            fixture = SimpleNamespace(**fields, cprofile_stats=None, has_error=False)
            metadata: Any = Metadata  # it has no annotations
            self._by_name[name] = metadata(fixture, 1, dict(OPTIONS))
            self._benchmarks.append(self._by_name[name])
        benchmark = self._by_name[name]
        self._of_item.setdefault(sample.item, []).append((name, seconds))
        benchmark.update(seconds)

    def discard(self, item: str) -> None:
        """Remove the samples of a test that runs again."""
        for name, seconds in self._of_item.pop(item, ()):
            benchmark = self._by_name[name]
            benchmark.stats.data.remove(seconds)
            if not benchmark.stats.data and self._benchmarks is not None:
                self._benchmarks.remove(self._by_name.pop(name))


def apply_selection(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Apply --benchmark-only and --benchmark-skip with tests that measure in guests among the
    benchmarks. Changes nothing when no test measures in guests."""
    theirs = benchmark_session(config)
    if theirs is None or not any(map(measures, items)):
        return
    only, theirs.only = theirs.only, False  # it would skip tests without its own fixture
    for item in items:
        if "benchmark" in getattr(item, "fixturenames", ()):
            continue
        if only and not measures(item):
            reason = "Skipping non-benchmark (--benchmark-only active)."
            item.add_marker(pytest.mark.skip(reason=reason))
        elif theirs.skip and measures(item):
            reason = "Skipping benchmark (--benchmark-skip active)."
            item.add_marker(pytest.mark.skip(reason=reason))
