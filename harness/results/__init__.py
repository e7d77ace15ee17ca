"""Samples: what a sample is, where samples are kept, what is derived from them."""

from harness.results.schema import RunFacts, Sample
from harness.results.spool import RunWriter, recover
from harness.results.store import load, new_run_id, query, runs, usable

__all__ = [
    "RunFacts",
    "RunWriter",
    "Sample",
    "load",
    "new_run_id",
    "query",
    "recover",
    "runs",
    "usable",
]
