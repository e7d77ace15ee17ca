"""Comparison of two sets of runs: a verdict for each figure.

- *regressed*, *improved*: the boots differ by the rule of differences.py (Mann and Whitney's test
  with Benjamini and Hochberg's bound over all figures, and an effect above MIN_EFFECT). The effect
  is also above the noise between earlier runs, when there are enough of them.
- *pass*: no difference is shown, and the interval excludes a regression by TOLERANCE.
- *not compared*: one side alone has the figure.
- *inconclusive*: all other figures. There are too few boots or there is too much noise.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from harness.errors import ResultError
from harness.results import differences
from harness.results.differences import FALSE_DISCOVERY_RATE, MIN_EFFECT, Side, min_p_value
from harness.results.environment import (
    CONFIGURATION,
    caveats,
    configuration_of,
    environment_differences,
    joined,
)
from harness.results.figure_names import variants
from harness.results.selection import RunSelection
from harness.results.statistics import BOOT, KEYS, sample_size_flags
from harness.results.store import boot_medians, facts_of, readable_files

TOLERANCE = 0.10  # a pass excludes a regression by this much
FALSE_ALARM_RATE = 0.001  # comparisons of equal builds with any figure above the noise floor
MAX_HISTORY = 30  # earlier runs that the noise floor is computed from
MIN_RUNS = 5  # runs for a noise floor; runs on each side for runs to be the unit of replication
# Images and host kernels change every night: they are reported, but do not split a series.
SERIES = [key for key in KEYS if key not in ("image", "host")]
VERDICTS = ("regressed", "improved", "inconclusive", "pass")
NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Comparison:
    """Two sets of runs, compared figure by figure.

    table: a row for each series, sorted by verdict. Columns: SERIES; variant (see
    figure_names.py); base, new (median of the
    boots' medians; NaN when not measured); base_n, new_n (samples); base_boots, new_boots (or runs,
    when both sides have MIN_RUNS); effect (0.2: worse by 20 %); low, high (its interval); p; floor
    (noise between runs; NaN when not known); verdict (of VERDICTS, or NOT_COMPARED); flags (list of
    text).
    environment: facts that differ: name, base's values, new's values.
    notes: reasons to doubt the comparison.
    """

    base: RunSelection
    new: RunSelection
    table: pd.DataFrame
    environment: Sequence[tuple[str, str, str]]
    notes: Sequence[str]

    @property
    def counts(self) -> dict[str, int]:
        """See verdict_counts."""
        return verdict_counts(self.table)

    @property
    def has_power(self) -> bool:
        """Whether the test can show one single regression among these figures."""
        tested = self.table[self.table["p"].notna()]
        boots = zip(tested["base_boots"], tested["new_boots"], strict=True)
        smallest = [min_p_value(int(base), int(new)) for base, new in boots]
        return bool(smallest) and min(smallest) * len(smallest) <= FALSE_DISCOVERY_RATE


def compare(base: RunSelection, new: RunSelection, history: Sequence[Path] = ()) -> Comparison:
    """Compare all figures that have a better direction.

    history: other runs, oldest first. Those of the same configuration give the noise floor. Raises
    ResultError when the configurations differ, when both sides have a run in common, or when they
    have no figure in common.
    """
    if common := {*base.names} & {*new.names}:
        raise ResultError(
            f"{base.label} and {new.label} are both {', '.join(sorted(common))}",
            hint="name two different runs: latest is the newest one, previous the one before it",
        )
    _refuse_other_configurations(base, new)
    notes: list[str] = list(dict.fromkeys([*base.problems, *new.problems]))
    runs_replicate = min(len(base.files), len(new.files)) >= MIN_RUNS
    unit = ["run"] if runs_replicate else BOOT
    before, after = (_figures(side.files, notes, unit) for side in (base, new))
    if not before.keys() & after.keys():
        raise ResultError(
            f"{base.label} and {new.label} have no figure in common",
            hint="run the same tests on the same hypervisors with the same profile in both",
        )
    rows = [_row(key, before.get(key), after.get(key)) for key in {**before, **after}]
    table = pd.DataFrame(rows)
    table["floor"] = _noise_floors(table, history, base, new)
    judged = sorted_by_verdict(assign_verdicts(table.assign(variant=variants(table))))
    notes += [note for side in (base, new) for note in caveats(side.facts)]
    if not runs_replicate and max(len(base.files), len(new.files)) > 1:
        notes.append(f"boots of several runs are pooled: a side has fewer than {MIN_RUNS} runs")
    return Comparison(base, new, judged, environment_differences(base.facts, new.facts), notes)


def verdict_counts(table: pd.DataFrame) -> dict[str, int]:
    """Number of rows for each of VERDICTS, in their order; then of NOT_COMPARED, if any."""
    counts = table["verdict"].value_counts()
    words = [*VERDICTS, NOT_COMPARED] if NOT_COMPARED in counts else VERDICTS
    return {verdict: int(counts.get(verdict, 0)) for verdict in words}


def format_counts(counts: Mapping[str, int]) -> str:
    """The result of verdict_counts as text: "1 regressed, 0 improved, ..."."""
    return ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items())


def sorted_by_verdict(table: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of VERDICTS, within a verdict by the size of the effect."""
    verdict = table["verdict"].map([*VERDICTS, NOT_COMPARED].index)
    order = np.lexsort((-table["effect"].abs().fillna(0), verdict))
    return table.iloc[order].reset_index(drop=True)


def format_figure(row: Mapping[Any, Any]) -> str:
    """Metric, variant and parameters of a row, in one line."""
    variant = f" {row['variant']}" if row["variant"] else ""
    return f"{row['metric']}{variant} {row['parameters']}".removesuffix(" {}")


def format_effect(row: Mapping[Any, Any]) -> str:
    """Effect and interval of a row."""
    return f"{row['effect']:.1%} ({row['low']:.1%} to {row['high']:.1%})"


def format_levels(row: Mapping[Any, Any]) -> str:
    """Base and new value of a row, with the unit."""
    return f"{row['base']:.4g} to {row['new']:.4g} {row['unit']}"


def assign_verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the column verdict; it depends on all rows together."""
    columns = ("effect", "p", "floor", "low", "high")
    words = differences.verdicts(*(list(table[name]) for name in columns))
    names = {"worse": "regressed", "better": "improved"}
    # An interval above MIN_EFFECT is no pass, even when the bound over all figures is missed.
    safe = table["p"].notna() & (table["high"] <= TOLERANCE) & ~(table["low"] > MIN_EFFECT)
    verdicts = [
        names.get(word) or ("pass" if is_safe else "inconclusive")
        for word, is_safe in zip(words, safe, strict=True)
    ]
    one_sided = (table["base_boots"] == 0) | (table["new_boots"] == 0)
    return table.assign(verdict=pd.Series(verdicts, table.index).mask(one_sided, NOT_COMPARED))


def _noise_floors(
    table: pd.DataFrame, history: Sequence[Path], base: RunSelection, new: RunSelection
) -> list[float]:
    """The difference that two sets of equal runs rarely exceed; NaN with fewer than MIN_RUNS.

    The deviation is estimated from the steps between successive runs. The bound uses Student's
    distribution, with Bonferroni's correction over all figures.
    """
    configuration = configuration_of(new.facts[-1])
    others, _ = readable_files(
        [path for path in history if path.stem not in {*base.names, *new.names}]
    )
    alike = [path for path in others if configuration_of(facts_of(path)) == configuration]
    alike = alike[-MAX_HISTORY:]
    spread: dict[tuple[str, ...], float] = {}
    if len(alike) >= MIN_RUNS:
        medians = differences.comparable_samples(boot_medians(alike, []))
        runs = medians.groupby([*SERIES, "run"], observed=True)["value"].median().reset_index()
        for key, values in runs.groupby(SERIES, observed=True)["value"]:
            if len(values) >= MIN_RUNS and (values > 0).all():
                # Steps, so that a change of the level hardly counts. The mean absolute step of a
                # normal distribution is 2 / sqrt(pi) times its standard deviation.
                steps = np.abs(np.diff(np.log(values.to_numpy(dtype=np.float64))))
                deviation = float(np.mean(steps)) * math.sqrt(math.pi) / 2
                # Successive steps share a run: 0.65 is the share of their degrees of freedom.
                degrees = 0.65 * len(steps)
                quantile = scipy.stats.t.isf(FALSE_ALARM_RATE / (2 * len(table)), degrees)
                spread[tuple(map(str, key))] = float(quantile) * deviation
    scale = math.sqrt(1 / len(base.files) + 1 / len(new.files))
    keys = table[SERIES].itertuples(index=False, name=None)
    return [scale * spread.get(tuple(map(str, key)), math.nan) for key in keys]


def _figures(
    files: Sequence[Path], notes: list[str], unit: Sequence[str]
) -> dict[tuple[str, ...], Side]:
    medians = differences.comparable_samples(boot_medians(files, notes))
    sides = differences.sides_of(medians, SERIES, unit)
    return {tuple(side.key[name] for name in SERIES): side for side in sides}


def _row(key: tuple[str, ...], base: Side | None, new: Side | None) -> dict[Hashable, Any]:
    names: dict[Hashable, Any] = dict(zip(SERIES, key, strict=True))
    row: dict[Hashable, Any] = {
        **names,
        **{"base": math.nan, "base_n": 0, "base_boots": 0},
        **{"new": math.nan, "new_n": 0, "new_boots": 0},
        **{"effect": math.nan, "low": math.nan, "high": math.nan, "p": math.nan, "flags": []},
    }
    for name, side in (("base", base), ("new", new)):
        if side is not None:
            row[name] = float(np.median(side.medians))
            row[f"{name}_n"], row[f"{name}_boots"] = side.n, side.medians.size
    if base is None or new is None:
        row["flags"] = [f"not measured in the {'base' if base is None else 'new run'}"]
        return row
    difference = differences.difference(new.medians, base.medians, names["better"])
    row.update(effect=difference.effect, low=difference.low, high=difference.high, p=difference.p)
    flags = sample_size_flags(min(base.medians.size, new.medians.size))
    if math.isnan(difference.effect):
        flags.append("the base is not above 0")
    elif math.isnan(difference.p):
        flags.append("too few boots for a test")
    row["flags"] = flags
    return row


def _refuse_other_configurations(base: RunSelection, new: RunSelection) -> None:
    labels = {"cpu_model": "CPUs", "backend": "backends", "profile": "profiles"}
    configurations = [configuration_of(run) for run in (*base.facts, *new.facts)]
    for name, values in zip(CONFIGURATION, zip(*configurations, strict=True), strict=True):
        if len(set(values)) > 1:
            raise ResultError(
                f"{base.label} and {new.label} have different {labels[name]}: "
                f"{joined(set(values))}",
                hint="compare runs with the same CPU, backend and profile: other absolute figures "
                "do not show what changed; for an imported run without a CPU, use --cpu",
            )
