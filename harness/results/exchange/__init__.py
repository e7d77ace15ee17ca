"""Runs as other tools have them: out of the store, and into it.

The Parquet file stays the record. What goes out is what `load` gives of it; what comes in becomes a
run of its own, and its facts' notes say where it is from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from harness.errors import ResultError
from harness.results.exchange import (
    benchmark_json,
    junit,
    kvm_unit_tests,
    pytest_benchmark,
    tables,
)
from harness.results.exchange.foreign import Foreign, Source
from harness.results.schema import RunFacts
from harness.results.spool import keep
from harness.results.store import load, runs

EXPORTS: Mapping[str, Callable[[RunFacts, pd.DataFrame], str]] = {
    "csv": tables.csv,
    "json": tables.as_json,
    "benchmark": lambda facts, frame: (
        json.dumps(benchmark_json.convert(facts, frame), indent=1, allow_nan=False) + "\n"
    ),
    "junit": junit.xml,
}
IMPORTS: Mapping[str, Callable[[Source], Foreign]] = {
    "benchmark": pytest_benchmark.read,
    "json": tables.read,
    "kvm-unit-tests": kvm_unit_tests.read,
}


def exported(run: Path, form: str) -> str:
    """A run's file as one of EXPORTS. Raises ResultError when it cannot be read."""
    return EXPORTS[form](*load(run))


def imported(store: Path, file: Path, form: str, hypervisor: str = "", cpu: str = "") -> Path:
    """A file of one of IMPORTS as a run of a store; the run's file.

    hypervisor, cpu: what its figures were measured on, where the file does not say. Raises
    ResultError, with nothing written, when the file is not of that kind or the store has it
    already.
    """
    try:
        source = Source(file, file.read_bytes(), file.stat().st_mtime, hypervisor)
    except OSError as error:
        raise ResultError(f"{file} cannot be read: {error.strerror}") from error
    made = IMPORTS[form](source)
    if cpu:
        made.facts.setdefault("cpu_model", cpu)
    run = made.facts["run"]
    others = [path.stem for path in runs(store) if path.stem != run]
    # by what the file holds: its time may have changed
    if there := [name for name in others if name[-6:] == run[-6:]]:
        raise ResultError(
            f"{store} has {file} already, as {there[0]}", hint="Remove that, if it is not the same."
        )
    return keep(store, made.facts, made.samples)
