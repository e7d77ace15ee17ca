"""Two sets of runs side by side: what became worse, what better, and what cannot be told.

A figure *regressed* or *improved* when its boots differ by the same rule as hypervisors side by
side do (differences.py): no chance by Mann and Whitney's test with Benjamini and Hochberg's bound
over all figures, and above EFFECT; and when it differs by more than runs of equals do, as far as
earlier runs are there to tell. It is a *pass* when nothing was shown, and the interval says
that it is not worse by TOLERANCE and may be no worse at all. All else is *inconclusive*: too few
boots, or too much noise.
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
from harness.results.differences import EFFECT, FALSE_DISCOVERIES, Side, least_p
from harness.results.schema import RunFacts
from harness.results.select import Selected
from harness.results.statistics import BOOT, KEYS, few
from harness.results.store import boot_medians, facts_of, usable

TOLERANCE = 0.10  # a figure that may be worse by that is no pass
ALARMS = 0.001  # comparisons of equals in which some figure differs by more than runs of equals do
HISTORY = 30  # runs that are looked back on for that
ENOUGH = 5  # of them, for it to be known; and runs a side that are repetitions of their own
# Images and host kernels change from night to night: they are told of, but part no series.
SERIES = [key for key in KEYS if key not in ("image", "host")]
VERDICTS = ("regressed", "improved", "inconclusive", "pass")
KIND = ("cpu_model", "backend", "profile")  # runs that differ in these are of different kinds
# of RunFacts: what may be why figures differ
ENVIRONMENT = (
    *("host", "hostname", "cpu_model", "cpus", "memory", "kernel", "microcode", "governor", "smt"),
    *("mitigations", "image", "versions", "fingerprint", "profile"),
)


@dataclass(frozen=True)
class Comparison:
    """table: a row a series, those that ask for attention first: SERIES; base, new (median of the
    boots' medians; NaN where a side has none), base_n, new_n (samples), base_boots, new_boots (or
    runs, where each side has ENOUGH), effect (0.2: worse by 20 %), low, high (its interval), p,
    floor (what runs of equals may differ by; NaN if not known), verdict (of VERDICTS), flags (list
    of text). environment: what differs between the hosts: name, base's, new's. notes: doubts about
    the whole."""

    base: Selected
    new: Selected
    table: pd.DataFrame
    environment: Sequence[tuple[str, str, str]]
    notes: Sequence[str]

    @property
    def counts(self) -> dict[str, int]:
        """Series of each verdict, in the order of VERDICTS."""
        return counted(self.table)

    @property
    def has_power(self) -> bool:
        """Whether one regression alone among these figures could have been shown."""
        tested = self.table[self.table["p"].notna()]
        boots = zip(tested["base_boots"], tested["new_boots"], strict=True)
        least = [least_p(int(one), int(other)) for one, other in boots]
        return bool(least) and min(least) * len(least) <= FALSE_DISCOVERIES


def compare(base: Selected, new: Selected, history: Sequence[Path] = ()) -> Comparison:
    """Compare all figures that have a better direction.

    history: other runs, oldest first; those of the same kind say how much runs of equals differ.
    Raises ResultError when the sides are of different kinds, have a run in common, or share no
    figure.
    """
    if common := {*base.names} & {*new.names}:
        raise ResultError(
            f"{base.label} and {new.label} are both {', '.join(sorted(common))}",
            hint="Name two runs; latest is the newest one, previous the one before it.",
        )
    _refuse_other_kinds(base, new)
    notes: list[str] = list(dict.fromkeys([*base.problems, *new.problems]))
    together = min(len(base.files), len(new.files)) >= ENOUGH
    unit = ["run"] if together else BOOT
    before, after = (_figures(side.files, notes, unit) for side in (base, new))
    if not before.keys() & after.keys():
        raise ResultError(
            f"{base.label} and {new.label} share no figure",
            hint="Run the same tests, on the same hypervisors and with the same profile, in both.",
        )
    rows = [_row(key, before.get(key), after.get(key)) for key in {**before, **after}]
    table = pd.DataFrame(rows)
    table["floor"] = _floors(table, history, base, new)
    judged = by_attention(judge(table))
    notes += [note for side in (base, new) for note in doubts(side.facts)]
    if not together and max(len(base.files), len(new.files)) > 1:
        notes.append(f"boots of several runs are taken together: fewer than {ENOUGH} runs a side")
    return Comparison(base, new, judged, environment(base.facts, new.facts), notes)


def counted(table: pd.DataFrame) -> dict[str, int]:
    """Rows of each verdict, in the order of VERDICTS."""
    found = table["verdict"].value_counts()
    return {verdict: int(found.get(verdict, 0)) for verdict in VERDICTS}


def by_attention(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by verdict, in the order of VERDICTS, and then by effect, the greatest first."""
    verdict = table["verdict"].map(VERDICTS.index)
    order = np.lexsort((-table["effect"].abs().fillna(0), verdict))
    return table.iloc[order].reset_index(drop=True)


def figure(row: Mapping[Any, Any]) -> str:
    """Which one a row is of, in one line."""
    return f"{row['metric']} {row['parameters']}".removesuffix(" {}")


def worse_by(row: Mapping[Any, Any]) -> str:
    """A row's effect and its interval."""
    return f"{row['effect']:.1%} ({row['low']:.1%} to {row['high']:.1%})"


def levels(row: Mapping[Any, Any]) -> str:
    """From what to what."""
    return f"{row['base']:.4g} to {row['new']:.4g} {row['unit']}"


def judge(table: pd.DataFrame) -> pd.DataFrame:
    """With the column verdict, by effect, p, interval and floor of all rows together."""
    columns = ("effect", "p", "floor", "low", "high")
    words = differences.verdicts(*(list(table[name]) for name in columns))
    names = {"worse": "regressed", "better": "improved"}
    # what is surely worse by what counts is no pass, though too little for a verdict among many
    sure = table["p"].notna() & (table["high"] <= TOLERANCE) & ~(table["low"] > EFFECT)
    verdicts = [
        names.get(word) or ("pass" if safe else "inconclusive")
        for word, safe in zip(words, sure, strict=True)
    ]
    return table.assign(verdict=verdicts)


def _floors(
    table: pd.DataFrame, history: Sequence[Path], base: Selected, new: Selected
) -> list[float]:
    """What the difference of both sides' medians hardly ever reaches, from what runs of the same
    kind differed from one to the next; NaN where there are not ENOUGH.

    By Student's distribution, as the deviation is estimated, with Bonferroni's bound over all
    figures.
    """
    kind = kind_of(new.facts[-1])
    others, _ = usable([path for path in history if path.stem not in {*base.names, *new.names}])
    alike = [path for path in others if kind_of(facts_of(path)) == kind][-HISTORY:]
    spread: dict[tuple[str, ...], float] = {}
    if len(alike) >= ENOUGH:
        medians = differences.comparable(boot_medians(alike, []))
        runs = medians.groupby([*SERIES, "run"], observed=True)["value"].median().reset_index()
        for key, values in runs.groupby(SERIES, observed=True)["value"]:
            if len(values) >= ENOUGH and (values > 0).all():
                # from one to the next, so that a change of the level among them hardly shows; of
                # a normal distribution such steps are on average 2 / sqrt(pi) of its deviation
                steps = np.abs(np.diff(np.log(values.to_numpy(dtype=np.float64))))
                deviation = float(np.mean(steps)) * math.sqrt(math.pi) / 2
                # steps that share a run are not independent: so many degrees of freedom are left
                reach = scipy.stats.t.isf(ALARMS / (2 * len(table)), 0.65 * len(steps))
                spread[tuple(map(str, key))] = float(reach) * deviation
    scale = math.sqrt(1 / len(base.files) + 1 / len(new.files))
    keys = table[SERIES].itertuples(index=False, name=None)
    return [scale * spread.get(tuple(map(str, key)), math.nan) for key in keys]


def environment(base: Sequence[RunFacts], new: Sequence[RunFacts]) -> list[tuple[str, str, str]]:
    """What differs, of ENVIRONMENT: name, what the base had, what the new has."""
    found = []
    for name in ENVIRONMENT:
        one, other = (_said(facts, name) for facts in (base, new))
        for part in sorted({**one, **other}):
            before, after = one.get(part, set()), other.get(part, set())
            if before != after:
                found.append((part, _words(before), _words(after)))
    return found


def _said(facts: Sequence[RunFacts], name: str) -> dict[str, set[str]]:
    """What runs say of a fact; a mapping's entries each of its own."""
    told: dict[str, set[str]] = {}
    for run in facts:
        value: object = run.get(name, "")
        parts = value if isinstance(value, Mapping) else {"": value}
        for part, its in parts.items():
            told.setdefault(f"{name}: {part}" if part else name, set()).add(str(its))
    return told


def _words(values: set[str]) -> str:
    return ", ".join(sorted(filter(None, values))) or "not known"


def doubts(facts: Sequence[RunFacts]) -> list[str]:
    """What makes a run's figures doubtful."""
    said = []
    for run in facts:
        name = run.get("run", "a run")
        if not run.get("complete", True):
            said.append(f"{name} is incomplete: its session ended before its time")
        if run.get("end", "") and run.get("start", "") > run.get("end", ""):
            said.append(f"{name}: the clock went back while it ran")
    return said


def _figures(
    files: Sequence[Path], notes: list[str], unit: Sequence[str]
) -> dict[tuple[str, ...], Side]:
    medians = differences.comparable(boot_medians(files, notes))
    sides = differences.sides_of(medians, SERIES, unit)
    return {tuple(side.key[name] for name in SERIES): side for side in sides}


def _row(key: tuple[str, ...], base: Side | None, new: Side | None) -> dict[Hashable, Any]:
    named: dict[Hashable, Any] = dict(zip(SERIES, key, strict=True))
    row: dict[Hashable, Any] = {
        **named,
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
    found = differences.difference(new.medians, base.medians, named["better"])
    row.update(effect=found.effect, low=found.low, high=found.high, p=found.p)
    flags = few(min(base.medians.size, new.medians.size))
    if math.isnan(found.effect):
        flags.append("the base is not above 0")
    elif math.isnan(found.p):
        flags.append("too few boots to tell")
    row["flags"] = flags
    return row


def kind_of(facts: RunFacts) -> tuple[str, ...]:
    """The values of KIND; a run of before there were profiles was a short one, and one that does
    not say its CPU is like no other."""
    told = {"profile": "short", "cpu_model": facts.get("run", ""), **facts}
    return tuple(str(told.get(name, "")) for name in KIND)


def _refuse_other_kinds(base: Selected, new: Selected) -> None:
    what = {"cpu_model": "CPUs", "backend": "backends", "profile": "profiles"}
    kinds = [kind_of(run) for run in (*base.facts, *new.facts)]
    for name, values in zip(KIND, zip(*kinds, strict=True), strict=True):
        told = set(values)
        if len(told) > 1:
            raise ResultError(
                f"{base.label} and {new.label} are of different {what[name]}: {_words(told)}",
                hint="Compare runs of one kind of host and profile: absolute figures of two say "
                "nothing about what changed. A run that was imported may lack its CPU: --cpu.",
            )
