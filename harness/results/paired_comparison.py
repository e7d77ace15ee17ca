"""Two revisions measured in turn (A B B A): drift affects both alike and cancels in each pair."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import ResultError
from harness.results import differences
from harness.results.compare import SERIES
from harness.results.differences import FALSE_DISCOVERY_RATE, relative_effect, verdicts
from harness.results.environment import configuration_of
from harness.results.figure_names import variants
from harness.results.history import series_id
from harness.results.statistics import SEED, Floats, bootstrap_medians, central_interval
from harness.results.store import boot_medians, facts_of

_MAX_EXACT_PAIRS = 12  # above this the test samples the signs
_NO_INTERVAL = (math.nan, math.nan)
_COLUMNS = ("base", "new", "pairs", "effect", "low", "high", "p")


@dataclass(frozen=True)
class PairedComparison:
    """The result of a paired measurement.

    table: a row for each series, the largest effect first. Columns: SERIES; base, new (medians of
    the runs); pairs (their number); effect (0.2: worse by 20 %; median of the pairs); low, high
    (its interval); p (two-sided sign permutation test of the log ratios); confirmed (bool: passes
    Benjamini and Hochberg's bound over all series, and the effect is above MIN_EFFECT).
    """

    table: pd.DataFrame

    @property
    def regressed(self) -> pd.DataFrame:
        return self.table[self.table["confirmed"] & (self.table["effect"] > 0)]


def compare_pairs(pairs: Sequence[tuple[Path, Path]], series: str = "") -> PairedComparison:
    """Compare pairs of run files (base, new).

    series: id of the only series to test; a single series needs fewer pairs. Raises ResultError
    when a file is broken, or when the pairs have no such figure in common.
    """
    table = pd.concat([_pair_values(number, *pair) for number, pair in enumerate(pairs)])
    if series:
        configuration = configuration_of(facts_of(pairs[0][0]))
        keys = table[SERIES].itertuples(index=False, name=None)
        table = table[[series_id((*configuration, *key)) == series for key in keys]]
    if table.empty:
        raise ResultError(
            f"base and new have no figure {series} above 0 in common".replace("  ", " "),
            hint="use a command that measures the figure in both; `python -m harness track` lists "
            "the ids",
        )
    rows = [_row(key, group) for key, group in table.groupby(SERIES, sort=True)]
    result = pd.DataFrame(rows, columns=[*SERIES, *_COLUMNS])
    effect, p, low, high = (list(result[name]) for name in ("effect", "p", "low", "high"))
    words = verdicts(effect, p, [0.0] * len(result), low, high)
    result["confirmed"] = [word in ("worse", "better") for word in words]
    result = result.sort_values("effect", ascending=False)
    result = result.reset_index(drop=True)
    return PairedComparison(result.assign(variant=variants(result)))


def required_pairs(figures: int) -> int:
    """The number of pairs that can show one regression among this many figures."""
    return next(n for n in itertools.count(1) if 2 / 2**n * figures <= FALSE_DISCOVERY_RATE)


def _pair_values(number: int, base: Path, new: Path) -> pd.DataFrame:
    """The figures that both runs have: SERIES, pair, base, new."""
    sides = []
    for name, path in (("base", base), ("new", new)):
        medians = differences.comparable_samples(boot_medians([path]))
        sides.append(medians.groupby(SERIES)["value"].median().rename(name))
    both = pd.concat(sides, axis=1, join="inner").reset_index()
    return both[(both["base"] > 0) & (both["new"] > 0)].assign(pair=number)


def _row(key: Any, group: pd.DataFrame) -> dict[str, Any]:
    names = dict(zip(SERIES, key, strict=True))
    sign = 1.0 if names["better"] == "lower" else -1.0
    logs = sign * np.log(group["new"].to_numpy() / group["base"].to_numpy())
    low, high = central_interval(bootstrap_medians(logs)) if logs.size > 1 else _NO_INTERVAL
    return {
        **names,
        **{"base": group["base"].median(), "new": group["new"].median(), "pairs": logs.size},
        **{
            name: float(relative_effect(math.exp(sign * log), names["better"]))
            for name, log in (("effect", np.median(logs)), ("low", low), ("high", high))
        },
        "p": sign_test(logs),
    }


def sign_test(logs: Floats) -> float:
    """Two-sided p value of the mean over all changes of the values' signs; NaN with too few values
    for significance."""
    size = logs.size
    if size < 1 or 2 / 2**size > FALSE_DISCOVERY_RATE:
        return math.nan
    if size <= _MAX_EXACT_PAIRS:
        signs = 1 - 2 * ((np.arange(2**size)[:, None] >> np.arange(size)) & 1)
    else:
        bits = np.random.default_rng(SEED).integers(0, 2, size=(1 << _MAX_EXACT_PAIRS, size))
        signs = np.vstack([np.ones(size, dtype=int), 1 - 2 * bits])
    means = np.abs(signs @ logs)
    return float(np.mean(means >= np.abs(logs.sum()) * (1 - 1e-12)))
