"""The history of every figure, run after run: where it changed, and what that is to be called.

A series *regressed* as long as a change for the worse (changes.py) that nobody has acknowledged
still holds: its level is worse than before that change by EFFECT. It *improved* for FRESH runs
after a change for the better. It is a *pass* when neither is so and its noise is small enough for a
step of TOLERANCE to be seen within days; else, or while it is too short or no longer measured, it
is *inconclusive*.
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
from harness.results import changes, differences
from harness.results.acknowledged import Acknowledged, acknowledgements
from harness.results.changes import LEAST, Change
from harness.results.compare import (
    SERIES,
    TOLERANCE,
    by_attention,
    counted,
    doubts,
    environment,
    kind_of,
)
from harness.results.differences import EFFECT
from harness.results.schema import RunFacts
from harness.results.statistics import Floats
from harness.results.store import boot_medians, facts_of, runs, usable

NIGHTS = 180  # how many runs are shown
FRESH = 14  # runs in which an improvement is news, and another kind of host is still one of ours
ID = "id"  # a series' short name


@dataclass(frozen=True)
class Track:
    """runs: the newest ones that are shown, oldest first.

    points: a row a run and series: id, SERIES, run, time (its start, UTC), commit, value (median of
    the boots' medians), n, boots.
    changes: a row a change point, newest last: id, SERIES, run (the first on the new level), time,
    before (the run before it), commit, before_commit, found (the run that showed it), old, new (the
    levels), effect (0.2: worse by 20 %), low, high, p, environment (list of (name, before,
    after)), acknowledged (why somebody said that it is known; "" if nobody did).
    series: a row a series, those that ask for attention first: id, SERIES, n (runs that have it),
    last (its value in the newest of them), level (median since its last change), verdict (of
    compare.VERDICTS), and of the change that it is for, else of the newest, effect, low, high, p,
    run, commit, before_commit (NaN and "" where there is none); cv (of the noise about its levels),
    flags (list of text), kind (of host; "" where all are of one).
    notes: doubts about the whole.
    """

    runs: Sequence[RunFacts]
    points: pd.DataFrame
    changes: pd.DataFrame
    series: pd.DataFrame
    notes: Sequence[str]

    @property
    def counts(self) -> dict[str, int]:
        """Series of each verdict, in the order of VERDICTS."""
        return counted(self.series)


def track(store: Path, nights: int = NIGHTS) -> Track:
    """All runs of a store are judged; nights: of how many runs points and changes are told.

    Runs of other kinds (compare.KIND) share no history: every kind that one of the newest FRESH
    runs is of has series of its own. Runs of a checkout with changes of its own (-dirty) count only
    where there are no others. Raises ResultError when there are no runs, or none has a figure with
    a better direction.
    """
    files, notes = usable(runs(store))
    if not files:
        raise ResultError(f"{store} holds no runs", hint="Run a suite with --virt-results first.")
    about = {path: facts_of(path) for path in files}
    clean = [path for path in files if not about[path].get("commit", "").endswith("-dirty")]
    if clean and len(clean) < len(files):
        notes.append(f"{len(files) - len(clean)} runs of changed checkouts (-dirty) are left out")
        files = clean
    kinds = dict.fromkeys(kind_of(about[path]) for path in files[-FRESH:])
    if others := sum(kind_of(about[path]) not in kinds for path in files):
        notes.append(f"{others} runs of other CPUs, backends or profiles are left out")
    said = acknowledgements(store, notes)
    parts = []
    for kind in kinds:
        mine = [path for path in files if kind_of(about[path]) == kind]
        facts = [about[path] for path in mine]
        points = _points(mine, facts, kind, notes)
        if not points.empty:
            parts.append(_tracked(points, facts, said))
            parts[-1].series["kind"] = ", ".join(filter(None, kind)) if len(kinds) > 1 else ""
    if not parts:
        raise ResultError(
            f"the newest runs of {store} hold no figure that can become better or worse",
            hint="Record samples with better='lower' or 'higher'.",
        )
    shown = [run for run in map(about.__getitem__, files) if kind_of(run) in kinds][-nights:]
    return _together(parts, shown, [*notes, *doubts(shown)])


def _together(parts: list[Track], shown: list[RunFacts], notes: list[str]) -> Track:
    """One history of several kinds of host; of each what belongs to the runs that are shown."""
    names = {run.get("run", "") for run in shown}
    points, told, series = (
        pd.concat([getattr(part, name) for part in parts], ignore_index=True)
        for name in ("points", "changes", "series")
    )
    points = points[points["run"].isin(names)]
    told = told[told["found"].isin(names) | told["run"].isin(series["run"])].sort_values("run")
    series = by_attention(series[series[ID].isin(points[ID])])
    return Track(shown, points.reset_index(drop=True), told.reset_index(drop=True), series, notes)


def _points(
    files: list[Path], facts: list[RunFacts], kind: tuple[str, ...], notes: list[str]
) -> pd.DataFrame:
    """See Track.points."""
    medians = differences.comparable(boot_medians(files, notes))
    grouped = medians.groupby([*SERIES, "run"], sort=True, observed=True)
    points = grouped.agg(value=("value", "median"), n=("n", "sum"), boots=("value", "size"))
    points = points.reset_index()
    about = {run.get("run", path.stem): run for path, run in zip(files, facts, strict=True)}
    starts = {name: pd.Timestamp(run.get("start", "NaT")) for name, run in about.items()}
    points["time"] = pd.to_datetime(points["run"].map(starts), utc=True)
    points["commit"] = points["run"].map(
        {name: run.get("commit", "") for name, run in about.items()}
    )
    keys = points[SERIES].drop_duplicates()
    ids = {key: series_id((*kind, *key)) for key in keys.itertuples(index=False, name=None)}
    rows = points[SERIES].itertuples(index=False, name=None)
    points.insert(0, ID, [ids[key] for key in rows])
    return points


def series_id(key: tuple[Any, ...]) -> str:
    """Of a kind of host and the values of SERIES: short, and the same from run to run."""
    return hashlib.sha256("\0".join(map(str, key)).encode()).hexdigest()[:12]


def _tracked(points: pd.DataFrame, facts: list[RunFacts], known: Acknowledged) -> Track:
    """Of one kind of host."""
    names = [run.get("run", "") for run in facts]
    table = points.pivot_table(index=ID, columns="run", values="value", sort=True, observed=True)
    table = table.reindex(columns=names)
    keys = points.drop_duplicates(ID).set_index(ID)[SERIES].loc[table.index].to_dict("records")
    values = table.to_numpy(dtype=np.float64)
    since = [_after(names, known.reset.get(str(one), "")) for one in table.index]
    found = changes.watch(values, np.asarray(since, dtype=np.int64))
    rows = [
        {ID: table.index[one.series], **keys[one.series], **_change(one, values, keys, facts)}
        for one in found
    ]
    for row, one in zip(rows, found, strict=True):
        # a start may move by a run or two when runs before it are added
        near = names[max(0, one.start - LEAST) : one.start + LEAST + 1]
        row["acknowledged"] = next(filter(None, (known.why(row[ID], run) for run in near)), "")
    of_each: dict[int, list[tuple[Change, dict[str, Any]]]] = {}
    for one, row in zip(found, rows, strict=True):
        of_each.setdefault(one.series, []).append((one, row))
    series = [
        {ID: name, **keys[n], **_verdict(values[n], since[n], of_each.get(n, []))}
        for n, name in enumerate(table.index)
    ]
    told = pd.DataFrame(rows, columns=[ID, *SERIES, *_CHANGE])
    return Track(facts, points, told, pd.DataFrame(series), ())


_CHANGE = (
    *("run", "time", "before", "commit", "before_commit", "found", "old", "new"),
    *("effect", "low", "high", "p", "environment", "acknowledged"),
)
_OF_CHANGE = ("effect", "low", "high", "p", "run", "commit", "before_commit")
_NONE: dict[str, Any] = {
    **dict.fromkeys(("effect", "low", "high", "p"), math.nan),
    **dict.fromkeys(("run", "commit", "before_commit"), ""),
}


def _after(names: list[str], run: str) -> int:
    """The place of the first run after one of that name; 0 for no name."""
    return sum(name <= run for name in names) if run else 0


def _change(
    one: Change, values: Floats, keys: list[dict[Hashable, Any]], facts: list[RunFacts]
) -> dict[str, Any]:
    row = values[one.series]
    old, new = (_known(row[a:b]) for a, b in ((one.base, one.start), (one.start, one.found + 1)))
    differs = differences.difference(new, old, keys[one.series]["better"], tested=False)
    there = np.flatnonzero(~np.isnan(row[: one.start]))
    before, first = facts[int(there[-1])], facts[one.start]
    return {
        "run": first.get("run", ""),
        "time": pd.Timestamp(first.get("start", "NaT")),
        "before": before.get("run", ""),
        "commit": first.get("commit", ""),
        "before_commit": before.get("commit", ""),
        "found": facts[one.found].get("run", ""),
        **{"old": one.before, "new": one.after, "effect": differs.effect},
        **{"low": differs.low, "high": differs.high, "p": one.p},
        "environment": environment([before], [first]),
    }


def _known(values: Floats) -> Floats:
    return np.asarray(values[~np.isnan(values)])


def _verdict(
    values: Floats, since: int, found: list[tuple[Change, dict[str, Any]]]
) -> dict[str, Any]:
    """See Track.series. since: where the series was begun anew."""
    known = _known(values[since:])
    newest = found[-1][0].start if found else since
    level = _known(values[newest:])
    middle = float(np.median(level)) if len(level) else math.nan
    # 1.4826: of a normal distribution the standard deviation, from the median deviation
    noise = 1.4826 * float(np.median(np.abs(level - middle))) / middle if middle > 0 else math.nan
    flags = []
    if len(known) < changes.START:
        flags.append(f"too few runs ({len(known)}): judged from {changes.START}")
    elif np.isnan(values[-LEAST:]).all():
        flags.append(f"not measured in the newest {LEAST} runs")
    elif math.isnan(noise):
        flags.append("not above 0")
    elif noise > TOLERANCE / 2:
        flags.append(f"noise of {noise:.0%}: a step of {TOLERANCE:.0%} would not be seen in days")
    word, told = "inconclusive" if flags else "pass", found[-1][1] if found else _NONE
    if holds := [row for _, row in found if _holds(row, middle)]:
        word, told = "regressed", holds[-1]
    elif found and told["effect"] < 0 and len(values) - newest <= FRESH:
        word = "improved" if not told["acknowledged"] else word
    return {
        "n": len(known),
        "last": float(known[-1]) if len(known) else math.nan,
        "level": middle,
        "verdict": word,
        **{name: told[name] for name in _OF_CHANGE},
        "cv": noise,
        "flags": flags,
    }


def _holds(row: dict[str, Any], level: float) -> bool:
    """Whether a change for the worse that nobody acknowledged is still to be seen."""
    if row["acknowledged"] or not row["effect"] > 0:
        return False
    return bool(differences.overhead(level / row["old"], row["better"]) >= EFFECT)
