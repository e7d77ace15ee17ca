"""Times the store with a million synthetic samples: writing a run, and queries over all runs.

    pytest benchmarks/test_store.py

RUNS runs have RUN samples each: 40 metrics, 5 boots and 50 batches, as after a night's suites. All
queries are warm: the files are in the page cache and their footers are known. The benchmark asserts
none of the figures.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.results import RunWriter, Sample, new_run_id, query, runs
from harness.results.spool import write_run
from harness.results.store import boot_medians, readable_files
from tests.results.synthetic import facts

RUNS, METRICS, BOOTS, BATCHES = 100, 40, 5, 50
RUN = METRICS * BOOTS * BATCHES
START = datetime(2026, 1, 1, 2, tzinfo=UTC)
SERIES = """
    SELECT run, median(value) AS value FROM samples
    WHERE metric = 'synthetic.17' AND hypervisor = 'kvm' GROUP BY run ORDER BY run
"""


def night(number: int) -> tuple[str, Iterator[Sample]]:
    """The name and the samples of one synthetic run."""
    start = START + timedelta(days=number)
    run, random = new_run_id(start), np.random.default_rng(number)
    noise = iter(random.lognormal(0, 0.03, RUN).tolist())
    return run, (
        Sample(
            metric=f"synthetic.{metric}",
            value=100 * next(noise),
            unit="us",
            better="lower",
            run=run,
            suite="synthetic",
            test=f"suites/synthetic/test_synthetic.py::test_{metric}",
            item=f"suites/synthetic/test_synthetic.py::test_{metric}[{boot}]",
            parameters={"vcpus": 1, "depth": metric % 4},
            hypervisor="kvm",
            backend="vmx",
            host="0123456789ab",
            image="sha256:feed",
            commit=f"{number:040x}",
            time=start + timedelta(seconds=60 * boot, milliseconds=batch),
            boot=boot,
            batch=batch,
        )
        for metric, boot, batch in itertools.product(range(METRICS), range(BOOTS), range(BATCHES))
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    for number in range(RUNS):
        run, samples = night(number)
        write_run(folder, facts(run=run), samples)
    return folder


def test_add_a_sample(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    run, samples = night(RUNS)
    (sample, *_) = samples
    writer = RunWriter(tmp_path, facts(), run=run)
    benchmark(writer.add, sample)


def test_close_a_run_in_a_large_store(benchmark: BenchmarkFixture, store: Path) -> None:
    paths: list[Path] = []

    def setup() -> tuple[tuple[RunWriter], dict[str, object]]:
        for path in paths:
            path.unlink(missing_ok=True)
        run, samples = night(RUNS)
        writer = RunWriter(store, facts(), run=run)
        for sample in samples:
            writer.add(sample)
        return (writer,), {}

    def close(writer: RunWriter) -> None:
        paths.append(writer.close())

    benchmark.pedantic(close, setup=setup, rounds=5)  # type: ignore[no-untyped-call]
    paths[-1].unlink()


def test_query_one_series(benchmark: BenchmarkFixture, store: Path) -> None:
    rows = benchmark(query, store, SERIES)
    assert len(rows) == RUNS


def test_find_readable_files(benchmark: BenchmarkFixture, store: Path) -> None:
    benchmark(readable_files, runs(store))


def test_medians_of_all_boots(benchmark: BenchmarkFixture, store: Path) -> None:
    medians = benchmark.pedantic(  # type: ignore[no-untyped-call]
        boot_medians, (runs(store),), rounds=5
    )
    assert len(medians) == RUNS * METRICS * BOOTS
