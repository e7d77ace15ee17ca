"""The history of every figure, run after run: where it changed, and what that is to be called.

A series *regressed* as long as its newest change (changes.py) is for the worse and nobody has
acknowledged it; it *improved* for FRESH runs after one for the better. It is a *pass* when no
change was found and its noise is small enough for a step of TOLERANCE to be seen within days; else,
or while it is too short, it is *inconclusive*.
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
from harness.results.changes import Change, Floats
from harness.results.compare import SERIES, TOLERANCE, VERDICTS, doubts, environment
from harness.results.schema import RunFacts
from harness.results.store import boot_medians, facts_of, runs, usable

NIGHTS = 180  # how far back it looks
FRESH = 14  # runs in which an improvement is news
ID = "id"  # a series' short name
KIND = ("cpu_model", "backend")  # hosts that differ in these share no history


@dataclass(frozen=True)
class Track:
    """runs: oldest first.

    points: a row a run and series: id, SERIES, run, time (its start, UTC), commit, value (median of
    the boots' medians), n, boots.
    changes: a row a change point, newest last: id, SERIES, run (the first on the new level), time,
    before (the run before it), commit, before_commit, found (the run that showed it), old, new (the
    levels), effect (0.2: worse by 20 %), low, high, p, environment (list of (name, before,
    after)), acknowledged (why somebody said that it is known; "" if nobody did).
    series: a row a series, those that ask for attention first: id, SERIES, n (runs that have it),
    last (its value in the newest of them), level (median since its last change), verdict (of
    compare.VERDICTS), and of the newest change effect, low, high, p, run, commit, before_commit
    (NaN and "" where there is none); cv (of the noise about its levels), flags (list of text).
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
        found = self.series["verdict"].value_counts()
        return {verdict: int(found.get(verdict, 0)) for verdict in VERDICTS}


def track(store: Path, nights: int = NIGHTS) -> Track:
    """The last runs of a store that are of the same kind of host as the newest.

    Raises ResultError when there are none, or none has a figure with a better direction.
    """
    files, notes = usable(runs(store))
    if not files:
        raise ResultError(f"{store} holds no runs", mend="Run a suite with --results first.")
    kept, facts, left_out = _of_one_kind(files, nights)
    notes = [*notes, *left_out, *doubts(facts)]
    points = _points(kept, facts)
    if points.empty:
        raise ResultError(
            f"the newest runs of {store} hold no figure that can become better or worse",
            mend="Record samples with better='lower' or 'higher'.",
        )
    return _tracked(points, facts, acknowledgements(store), notes)


def _of_one_kind(files: list[Path], nights: int) -> tuple[list[Path], list[RunFacts], list[str]]:
    newest = facts_of(files[-1])
    kept: list[Path] = []
    facts: list[RunFacts] = []
    others = 0
    for path in files[-nights:]:
        its = facts_of(path)
        if all(its.get(name) == newest.get(name) for name in KIND):
            kept.append(path)
            facts.append(its)
        else:
            others += 1
    told = f"{others} of these runs are of other CPUs or backends than the newest: left out"
    return kept, facts, [told] if others else []


def _points(files: list[Path], facts: list[RunFacts]) -> pd.DataFrame:
    """See Track.points."""
    medians = differences.comparable(boot_medians(files))
    grouped = medians.groupby([*SERIES, "run"], sort=True)
    points = grouped.agg(value=("value", "median"), n=("n", "sum"), boots=("value", "size"))
    points = points.reset_index()
    about = {run.get("run", path.stem): run for path, run in zip(files, facts, strict=True)}
    starts = {name: pd.Timestamp(run.get("start", "NaT")) for name, run in about.items()}
    points["time"] = pd.to_datetime(points["run"].map(starts), utc=True)
    points["commit"] = points["run"].map(
        {name: run.get("commit", "") for name, run in about.items()}
    )
    points.insert(0, ID, [series_id(key) for key in points[SERIES].itertuples(index=False)])
    return points


def series_id(key: tuple[Any, ...]) -> str:
    """Of the values of SERIES: short, and the same from run to run."""
    return hashlib.sha256("\0".join(map(str, key)).encode()).hexdigest()[:8]


def _tracked(
    points: pd.DataFrame, facts: list[RunFacts], known: Acknowledged, notes: list[str]
) -> Track:
    names = [run.get("run", "") for run in facts]
    table = points.pivot_table(index=ID, columns="run", values="value", sort=True)
    table = table.reindex(columns=names)
    keys = points.drop_duplicates(ID).set_index(ID)[SERIES].loc[table.index].to_dict("records")
    values = table.to_numpy(dtype=np.float64)
    since = [_after(names, known.reset.get(str(one), "")) for one in table.index]
    found = changes.watch(values, np.asarray(since, dtype=np.int64))
    rows = [
        {ID: table.index[one.series], **keys[one.series], **_change(one, values, keys, facts)}
        for one in found
    ]
    for row in rows:
        row["acknowledged"] = known.why(row[ID], row["run"])
    of_each: dict[int, list[int]] = {}
    for place, one in enumerate(found):
        of_each.setdefault(one.series, []).append(place)
    series = [
        {
            ID: name,
            **keys[number],
            **_verdict(
                values[number, since[number] :],
                [(found[p], rows[p]) for p in of_each.get(number, [])],
                len(names),
            ),
        }
        for number, name in enumerate(table.index)
    ]
    judged = pd.DataFrame(series)
    order = np.lexsort((-judged["effect"].abs().fillna(0), judged["verdict"].map(VERDICTS.index)))
    return Track(
        facts,
        points,
        pd.DataFrame(rows, columns=[ID, *SERIES, *_CHANGE]),
        judged.iloc[order].reset_index(drop=True),
        notes,
    )


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
    differs = differences.difference(new, old, keys[one.series]["better"])
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
    values: Floats, found: list[tuple[Change, dict[str, Any]]], runs_in_all: int
) -> dict[str, Any]:
    """See Track.series. values: since the series was last begun anew."""
    known = _known(values)
    newest, told = found[-1] if found else (None, _NONE)
    offset = runs_in_all - len(values)
    level = values if newest is None else values[newest.start - offset :]
    middle = float(np.nanmedian(level)) if len(known) else math.nan
    spread = float(np.median(np.abs(_known(level) - middle))) if len(known) else math.nan
    # 1.4826: of a normal distribution the standard deviation, from the median deviation
    noise = 1.4826 * spread / middle if middle > 0 else math.nan
    flags = []
    if len(known) < changes.START:
        flags.append(f"too few runs ({len(known)}): judged from {changes.START}")
    elif math.isnan(noise):
        flags.append("not above 0")
    elif noise > TOLERANCE / 2:
        flags.append(f"noise of {noise:.0%}: a step of {TOLERANCE:.0%} would not be seen in days")
    word = "inconclusive" if flags else "pass"
    if newest is not None:
        recent = runs_in_all - newest.start <= FRESH
        if told["effect"] > 0 and not told["acknowledged"]:
            word = "regressed"
        elif told["effect"] < 0 and recent and not told["acknowledged"]:
            word = "improved"
    return {
        "n": len(known),
        "last": float(known[-1]) if len(known) else math.nan,
        "level": middle,
        "verdict": word,
        **{name: told[name] for name in _OF_CHANGE},
        "cv": noise,
        "flags": flags,
    }
