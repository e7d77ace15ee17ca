"""Samples: what a sample is, where samples are kept, what is derived from them."""

from harness.results.schema import RunFacts, Sample
from harness.results.store import RunWriter, load, new_run_id, query, recover, runs

__all__ = ["RunFacts", "RunWriter", "Sample", "load", "new_run_id", "query", "recover", "runs"]
