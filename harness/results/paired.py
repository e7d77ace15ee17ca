"""Two revisions measured in turn, A B B A: what hits both alike falls out of each pair."""

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
from harness.results.compare import SERIES, kind_of
from harness.results.differences import FALSE_DISCOVERIES, overhead, verdicts
from harness.results.statistics import SEED, Floats, central, draw
from harness.results.store import boot_medians, facts_of
from harness.results.track import series_id

_EXACT = 12  # pairs, up to which all signs are gone through


@dataclass(frozen=True)
class Paired:
    """table: a row a series, the most worse first: SERIES, base, new (medians of the runs), pairs,
    effect (0.2: worse by 20 %: the median of the pairs), low, high, p (permutation of the
    signs of the pairs' logarithms, two-sided), confirmed (bool: by Benjamini and Hochberg's bound
    over all series, and above EFFECT)."""

    table: pd.DataFrame

    @property
    def regressed(self) -> pd.DataFrame:
        return self.table[self.table["confirmed"] & (self.table["effect"] > 0)]


def paired(pairs: Sequence[tuple[Path, Path]], series: str = "") -> Paired:
    """pairs: the run files of base and new, in turn. series: the id of the only figure that is
    asked about; fewer pairs tell it than tell one among many. Raises ResultError when a file is
    broken, or the pairs share no such figure."""
    table = pd.concat([_ratios(number, *pair) for number, pair in enumerate(pairs)])
    if series:
        kind = kind_of(facts_of(pairs[0][0]))
        keys = table[SERIES].itertuples(index=False, name=None)
        table = table[[series_id((*kind, *key)) == series for key in keys]]
    if table.empty:
        raise ResultError(
            f"base and new have no figure {series} above 0 in common".replace("  ", " "),
            hint="Have the command measure it in both (`python -m harness track` tells the ids).",
        )
    rows = [_row(key, group) for key, group in table.groupby(SERIES, sort=True)]
    made = pd.DataFrame(rows, columns=[*SERIES, *_COLUMNS])
    effect, p, low, high = (list(made[name]) for name in ("effect", "p", "low", "high"))
    words = verdicts(effect, p, [0.0] * len(made), low, high)
    made["confirmed"] = [word in ("worse", "better") for word in words]
    return Paired(made.sort_values("effect", ascending=False).reset_index(drop=True))


def enough(figures: int) -> int:
    """How many pairs it takes to show one figure among so many."""
    return next(n for n in itertools.count(1) if 2 / 2**n * figures <= FALSE_DISCOVERIES)


_COLUMNS = ("base", "new", "pairs", "effect", "low", "high", "p")


def _ratios(number: int, base: Path, new: Path) -> pd.DataFrame:
    """Of what both have: SERIES, pair, base, new."""
    sides = []
    for name, path in (("base", base), ("new", new)):
        medians = differences.comparable(boot_medians([path]))
        sides.append(medians.groupby(SERIES)["value"].median().rename(name))
    both = pd.concat(sides, axis=1, join="inner").reset_index()
    return both[(both["base"] > 0) & (both["new"] > 0)].assign(pair=number)


def _row(key: Any, group: pd.DataFrame) -> dict[str, Any]:
    named = dict(zip(SERIES, key, strict=True))
    sign = 1.0 if named["better"] == "lower" else -1.0
    logs = sign * np.log(group["new"].to_numpy() / group["base"].to_numpy())
    low, high = central(draw(logs)) if logs.size > 1 else _UNKNOWN
    return {
        **named,
        **{"base": group["base"].median(), "new": group["new"].median(), "pairs": logs.size},
        **{
            name: float(overhead(math.exp(sign * worse), named["better"]))
            for name, worse in (("effect", np.median(logs)), ("low", low), ("high", high))
        },
        "p": sign_test(logs),
    }


_UNKNOWN = (math.nan, math.nan)


def sign_test(logs: Floats) -> float:
    """Two-sided p of a mean that far from 0, over all changes of the values' signs; NaN where so
    few cannot tell."""
    if logs.size < 1 or 2 / 2**logs.size > FALSE_DISCOVERIES:
        return math.nan
    size = logs.size
    if size <= _EXACT:
        signs = 1 - 2 * ((np.arange(2**size)[:, None] >> np.arange(size)) & 1)
    else:
        drawn = np.random.default_rng(SEED).integers(0, 2, size=(1 << _EXACT, size))
        signs = np.vstack([np.ones(size, dtype=int), 1 - 2 * drawn])
    means = np.abs(signs @ logs)
    return float(np.mean(means >= np.abs(logs.sum()) * (1 - 1e-12)))
