"""Samples of measurements: their schema, their store, and the statistics derived from them."""

from harness.results.schema import RunFacts, Sample
from harness.results.spool import RunWriter, recover
from harness.results.store import load, query, readable_files, runs
from harness.run_id import new_run_id

__all__ = [
    "RunFacts",
    "RunWriter",
    "Sample",
    "load",
    "new_run_id",
    "query",
    "readable_files",
    "recover",
    "runs",
]
