"""The history of each figure over the runs of a store, with change points and verdicts.

- *regressed*: the newest change for the worse (change_points.py) that is not acknowledged still
  holds. The level is worse than before the change by MIN_EFFECT.
- *improved*: the newest change is for the better and at most RECENT runs old.
- *pass*: neither, and the noise is small enough for a step of TOLERANCE to be visible within days.
- *inconclusive*: the series is too short or too noisy, it is not above 0, or none of the newest
  MIN_AFTER runs has it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import ResultError
from harness.results import change_points, differences
from harness.results.acknowledgements import Acknowledgements, load_acknowledgements
from harness.results.change_points import MIN_AFTER, MIN_NIGHTS, ChangePoint
from harness.results.compare import SERIES, TOLERANCE, sorted_by_verdict, verdict_counts
from harness.results.differences import MIN_EFFECT
from harness.results.environment import caveats, configuration_of, environment_differences
from harness.results.schema import RunFacts
from harness.results.statistics import TEST, Floats
from harness.results.store import boot_medians, facts_of, readable_files, runs

MAX_NIGHTS = 180  # runs whose points are reported
RECENT = 14  # runs in which an improvement is reported, and a configuration stays in use
ID = "id"  # a series' short name


@dataclass(frozen=True)
class History:
    """The series of a store.

    runs: the newest runs, oldest first.
    points: a row for each run and series: id, SERIES, run, time (its start, UTC), commit, value
    (median of the boots' medians), n, boots.
    changes: a row for each change point, newest last: id, SERIES, run (first on the new level),
    time, previous_run, commit, previous_commit, detected (run that showed the change), old, new
    (levels), effect (0.2: worse by 20 %), low, high, p, environment (list of (name, before,
    after)), acknowledged (the reason; "" when not acknowledged).
    series: a row for each series, sorted by verdict: id, SERIES, n (runs that have it), last (its
    newest value), level (median since its last change), verdict (of compare.VERDICTS), effect, low,
    high, p, run, commit, previous_commit (of the change behind the verdict, else of the newest one;
    NaN and "" without a change), cv (noise about the level), flags (list of text), configuration
    (of the host; "" when all series have the same).
    notes: reasons to doubt the history.
    """

    runs: Sequence[RunFacts]
    points: pd.DataFrame
    changes: pd.DataFrame
    series: pd.DataFrame
    notes: Sequence[str]

    @property
    def counts(self) -> dict[str, int]:
        """Number of series for each verdict, in the order of VERDICTS."""
        return verdict_counts(self.series)


def load_history(store: Path, nights: int = MAX_NIGHTS) -> History:
    """Judge all series of a store. nights: number of runs whose points and changes are reported.

    Runs of different configurations (environment.CONFIGURATION) have separate series. A
    configuration is in use when one of the newest RECENT runs has it; other runs are excluded. Runs
    of a modified checkout (-dirty) count only when there are no others. Raises ResultError when
    there are no runs, or no figure has a better direction.
    """
    files, notes = readable_files(runs(store))
    if not files:
        raise ResultError(f"{store} holds no runs", hint="run a suite with --virt-results first")
    facts = {path: facts_of(path) for path in files}
    clean = [path for path in files if not facts[path].get("commit", "").endswith("-dirty")]
    if clean and len(clean) < len(files):
        notes.append(f"{len(files) - len(clean)} runs of modified checkouts (-dirty) are excluded")
        files = clean
    in_use = dict.fromkeys(configuration_of(facts[path]) for path in files[-RECENT:])
    if others := sum(configuration_of(facts[path]) not in in_use for path in files):
        notes.append(f"{others} runs with other CPUs, backends or profiles are excluded")
    known = load_acknowledgements(store, notes)
    parts = []
    for configuration in in_use:
        paths = [path for path in files if configuration_of(facts[path]) == configuration]
        run_facts = [facts[path] for path in paths]
        points = _points(paths, run_facts, configuration, notes)
        if not points.empty:
            former = _former_ids(points, configuration)
            part = _history_of_points(points, run_facts, known.with_new_ids(former))
            label = ", ".join(filter(None, configuration)) if len(in_use) > 1 else ""
            part.series["configuration"] = label
            parts.append(part)
    if not parts:
        raise ResultError(
            f"the newest runs of {store} hold no figure with a better direction",
            hint="record samples with better='lower' or better='higher'",
        )
    shown = [facts[path] for path in files if configuration_of(facts[path]) in in_use][-nights:]
    return _merge(parts, shown, [*notes, *caveats(shown)])


def _merge(parts: list[History], shown: list[RunFacts], notes: list[str]) -> History:
    """Merge the histories of several configurations; keep what belongs to the shown runs."""
    names = {run.get("run", "") for run in shown}
    points, changes, series = (
        pd.concat([getattr(part, name) for part in parts], ignore_index=True)
        for name in ("points", "changes", "series")
    )
    points = points[points["run"].isin(names)]
    changes = changes[changes["detected"].isin(names) | changes["run"].isin(series["run"])]
    changes = changes.sort_values("run").reset_index(drop=True)
    series = sorted_by_verdict(series[series[ID].isin(points[ID])])
    return History(shown, points.reset_index(drop=True), changes, series, notes)


def _points(
    files: list[Path], facts: list[RunFacts], configuration: tuple[str, ...], notes: list[str]
) -> pd.DataFrame:
    """The table History.points."""
    medians = differences.comparable_samples(boot_medians(files, notes))
    grouped = medians.groupby([*SERIES, "run"], sort=True, observed=True)
    points = grouped.agg(value=("value", "median"), n=("n", "sum"), boots=("value", "size"))
    points = points.reset_index()
    by_run = {run.get("run", path.stem): run for path, run in zip(files, facts, strict=True)}
    starts = {name: pd.Timestamp(run.get("start", "NaT")) for name, run in by_run.items()}
    points["time"] = pd.to_datetime(points["run"].map(starts), utc=True)
    points["commit"] = points["run"].map(
        {name: run.get("commit", "") for name, run in by_run.items()}
    )
    keys = points[SERIES].drop_duplicates().itertuples(index=False, name=None)
    ids = {key: series_id((*configuration, *key)) for key in keys}
    rows = points[SERIES].itertuples(index=False, name=None)
    points.insert(0, ID, [ids[key] for key in rows])
    return points


def series_id(key: tuple[Any, ...]) -> str:
    """A short id that is stable from run to run. key: values of CONFIGURATION and SERIES."""
    return hashlib.sha256("\0".join(map(str, key)).encode()).hexdigest()[:12]


def _former_ids(points: pd.DataFrame, configuration: tuple[str, ...]) -> dict[str, str]:
    """Id -> the id that the series had while a figure was not identified by its test."""
    names = [name for name in SERIES if name not in TEST]
    series = points[[ID, *names]].drop_duplicates().itertuples(index=False, name=None)
    return {new: series_id((*configuration, *key)) for new, *key in series}


def _history_of_points(
    points: pd.DataFrame, facts: list[RunFacts], known: Acknowledgements
) -> History:
    """The history of one configuration."""
    names = [run.get("run", "") for run in facts]
    table = points.pivot_table(index=ID, columns="run", values="value", sort=True, observed=True)
    table = table.reindex(columns=names)
    keys = points.drop_duplicates(ID).set_index(ID)[SERIES].loc[table.index].to_dict("records")
    values = table.to_numpy(dtype=np.float64)
    since = [_index_after(names, known.resets.get(str(name), "")) for name in table.index]
    detected = change_points.find_change_points(values, np.asarray(since, dtype=np.int64))
    rows = [
        {ID: table.index[one.series], **keys[one.series], **_change_row(one, values, keys, facts)}
        for one in detected
    ]
    for row, one in zip(rows, detected, strict=True):
        # The start of a change may move by a run or two when runs before it are added.
        nearby = names[max(0, one.start - MIN_AFTER) : one.start + MIN_AFTER + 1]
        reasons = (known.reason(row[ID], run) for run in nearby)
        row["acknowledged"] = next(filter(None, reasons), "")
    by_series: dict[int, list[tuple[ChangePoint, dict[str, Any]]]] = {}
    for one, row in zip(detected, rows, strict=True):
        by_series.setdefault(one.series, []).append((one, row))
    series = [
        {ID: name, **keys[n], **_series_row(values[n], since[n], by_series.get(n, []))}
        for n, name in enumerate(table.index)
    ]
    changes = pd.DataFrame(rows, columns=[ID, *SERIES, *_CHANGE_COLUMNS])
    return History(facts, points, changes, pd.DataFrame(series), ())


_CHANGE_COLUMNS = (
    *("run", "time", "previous_run", "commit", "previous_commit", "detected", "old", "new"),
    *("effect", "low", "high", "p", "environment", "acknowledged"),
)
_SERIES_CHANGE_COLUMNS = ("effect", "low", "high", "p", "run", "commit", "previous_commit")
_NO_CHANGE: dict[str, Any] = {
    **dict.fromkeys(("effect", "low", "high", "p"), math.nan),
    **dict.fromkeys(("run", "commit", "previous_commit"), ""),
}


def _index_after(names: list[str], run: str) -> int:
    """The index of the first run after the named one; 0 for no name."""
    return sum(name <= run for name in names) if run else 0


def _change_row(
    one: ChangePoint, values: Floats, keys: list[dict[Hashable, Any]], facts: list[RunFacts]
) -> dict[str, Any]:
    row = values[one.series]
    levels = ((one.base, one.start), (one.start, one.detected + 1))
    old, new = (_without_nan(row[start:end]) for start, end in levels)
    difference = differences.difference(new, old, keys[one.series]["better"], tested=False)
    measured = np.flatnonzero(~np.isnan(row[: one.start]))
    previous, first = facts[int(measured[-1])], facts[one.start]
    return {
        "run": first.get("run", ""),
        "time": pd.Timestamp(first.get("start", "NaT")),
        "previous_run": previous.get("run", ""),
        "commit": first.get("commit", ""),
        "previous_commit": previous.get("commit", ""),
        "detected": facts[one.detected].get("run", ""),
        **{"old": one.before, "new": one.after, "effect": difference.effect},
        **{"low": difference.low, "high": difference.high, "p": one.p},
        "environment": environment_differences([previous], [first]),
    }


def _without_nan(values: Floats) -> Floats:
    return np.asarray(values[~np.isnan(values)])


def _series_row(
    values: Floats, since: int, changes: list[tuple[ChangePoint, dict[str, Any]]]
) -> dict[str, Any]:
    """A row of History.series. since: index of the first run that counts, after a reset."""
    known = _without_nan(values[since:])
    newest = changes[-1][0].start if changes else since
    level_values = _without_nan(values[newest:])
    level = float(np.median(level_values)) if len(level_values) else math.nan
    noise = _deviation(level_values - level) / level if level > 0 else math.nan
    flags = []
    if len(known) < MIN_NIGHTS:
        flags.append(f"too few runs ({len(known)}): a verdict needs {MIN_NIGHTS}")
    elif np.isnan(values[-MIN_AFTER:]).all():
        flags.append(f"not measured in the newest {MIN_AFTER} runs")
    elif math.isnan(noise):
        flags.append("not above 0")
    elif noise > TOLERANCE / 2:
        flags.append(f"noise of {noise:.0%} hides a step of {TOLERANCE:.0%}")
    verdict, change = "inconclusive" if flags else "pass", changes[-1][1] if changes else _NO_CHANGE
    if active := [row for _, row in changes if _still_holds(row, level)]:
        verdict, change = "regressed", active[-1]
    elif changes and change["effect"] < 0 and len(values) - newest <= RECENT:
        verdict = "improved" if not change["acknowledged"] else verdict
    return {
        "n": len(known),
        "last": float(known[-1]) if len(known) else math.nan,
        "level": level,
        "verdict": verdict,
        **{name: change[name] for name in _SERIES_CHANGE_COLUMNS},
        "cv": noise,
        "flags": flags,
    }


def _deviation(residuals: Floats) -> float:
    """The standard deviation, if the residuals are normal, of values about their median.

    It is estimated from the median absolute deviation. That is 0 for counts that are mostly equal:
    the mean absolute deviation shows how often they differ (Iglewicz and Hoaglin, How to Detect and
    Handle Outliers, 1993).
    """
    distances = np.abs(residuals)
    return float(1.4826 * np.median(distances) or 1.2533 * np.mean(distances))


def _still_holds(change: dict[str, Any], level: float) -> bool:
    """Whether the level is still worse than before an unacknowledged change for the worse."""
    if change["acknowledged"] or not change["effect"] > 0:
        return False
    ratio = level / change["old"]
    return bool(differences.relative_effect(ratio, change["better"]) >= MIN_EFFECT)
