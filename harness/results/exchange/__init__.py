"""Export of runs to the formats of other tools, and import from them.

The Parquet file remains the record. An export contains what `load` returns. An import creates a new
run, whose notes name the source.
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
from harness.results.exchange.imported_run import ImportedRun, ImportSource
from harness.results.schema import RunFacts
from harness.results.spool import write_run
from harness.results.store import load, runs

EXPORTS: Mapping[str, Callable[[RunFacts, pd.DataFrame], str]] = {
    "csv": tables.csv,
    "json": tables.as_json,
    "benchmark": lambda facts, frame: (
        json.dumps(benchmark_json.convert(facts, frame), indent=1, allow_nan=False) + "\n"
    ),
    "junit": junit.xml,
}
IMPORTS: Mapping[str, Callable[[ImportSource], ImportedRun]] = {
    "benchmark": pytest_benchmark.read,
    "json": tables.read,
    "kvm-unit-tests": kvm_unit_tests.read,
}


def export_run(run: Path, form: str) -> str:
    """A run file in one of the formats EXPORTS. Raises ResultError when it cannot be read."""
    return EXPORTS[form](*load(run))


def import_run(store: Path, file: Path, form: str, hypervisor: str = "", cpu: str = "") -> Path:
    """Import a file in one of the formats IMPORTS; return the run file.

    hypervisor, cpu: used when the file does not contain them. Raises ResultError, and writes
    nothing, when the file has another format, or when the store has it already.
    """
    try:
        source = ImportSource(file, file.read_bytes(), file.stat().st_mtime, hypervisor)
    except OSError as error:
        raise ResultError(
            f"{file} cannot be read: {error.strerror}", hint="name a readable file"
        ) from error
    imported = IMPORTS[form](source)
    if cpu:
        imported.facts.setdefault("cpu_model", cpu)
    run = imported.facts["run"]
    others = [path.stem for path in runs(store) if path.stem != run]
    # The suffix is a digest of the content; the time in the name may have changed.
    if same := [name for name in others if name[-6:] == run[-6:]]:
        raise ResultError(
            f"{store} has {file} already, as {same[0]}",
            hint="remove the stored run first if it is a different one",
        )
    return write_run(store, imported.facts, imported.samples)
