"""The history of every figure, run after run: where it changed, and what that is to be called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from harness.results.schema import RunFacts


@dataclass(frozen=True)
class Track:
    """runs: oldest first.

    points: a row a run and series: SERIES (see compare.py), run, time (its start, UTC), commit,
    value (median of the boots' medians), n, boots.
    changes: a row a change point: SERIES, run (the first on the new level), time, before (the run
    before it), commit, before_commit, effect (0.2: worse by 20 %), low, high, p, environment (list
    of (name, before, after)), acknowledged (why somebody said that it is known; "" if nobody did).
    series: a row a series: SERIES, n (runs that have it), last (its value in the last run), level
    (median since its last change), verdict (of compare.VERDICTS: what the newest change that nobody
    acknowledged says), and of that change effect, low, high, p, run, commit, before_commit; cv (of
    the noise about its levels), flags (list of text).
    notes: doubts about the whole.
    """

    runs: Sequence[RunFacts]
    points: pd.DataFrame
    changes: pd.DataFrame
    series: pd.DataFrame
    notes: Sequence[str]
