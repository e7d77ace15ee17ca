"""Two sets of runs side by side: what became worse, what better, and what cannot be told.

A figure *regressed* or *improved* when its boots differ by the same rule as hypervisors side by
side do (differences.py): no chance by Mann and Whitney's test with Benjamini and Hochberg's bound
over all figures, and above EFFECT. It is a *pass* when nothing was shown and the interval also says
that it is not worse by TOLERANCE. All else is *inconclusive*: too few boots, or too much noise.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import ResultError
from harness.results import differences
from harness.results.differences import Side
from harness.results.schema import RunFacts
from harness.results.select import Selected
from harness.results.statistics import KEYS, few
from harness.results.store import boot_medians

TOLERANCE = 0.10  # a figure that may be worse by that is no pass
# Images and host kernels change from night to night: they are told of, but part no series.
SERIES = [key for key in KEYS if key not in ("image", "host")]
VERDICTS = ("regressed", "improved", "inconclusive", "pass")
# of RunFacts: what may be why figures differ
ENVIRONMENT = (
    *("host", "hostname", "cpu_model", "cpus", "memory", "kernel", "microcode", "governor", "smt"),
    *("mitigations", "image", "versions", "fingerprint"),
)


@dataclass(frozen=True)
class Comparison:
    """table: a row a series, those that ask for attention first: SERIES; base, new (median of the
    boots' medians; NaN where a side has none), base_n, new_n (samples), base_boots, new_boots,
    effect (0.2: worse by 20 %), low, high (its interval), p, verdict (of VERDICTS), flags (list of
    text). environment: what differs between the hosts: name, base's, new's. notes: doubts about
    the whole."""

    base: Selected
    new: Selected
    table: pd.DataFrame
    environment: Sequence[tuple[str, str, str]]
    notes: Sequence[str]

    @property
    def counts(self) -> dict[str, int]:
        """Series of each verdict, in the order of VERDICTS."""
        found = self.table["verdict"].value_counts()
        return {verdict: int(found.get(verdict, 0)) for verdict in VERDICTS}


def compare(base: Selected, new: Selected) -> Comparison:
    """Compare all figures that have a better direction.

    Raises ResultError when the sides are of different backends or CPUs, or share no figure.
    """
    sides = [_figures(side) for side in (base, new)]
    _refuse_what_cannot_be(base, new, *sides)
    before, after = ({_key(side.key): side for side in one} for one in sides)
    rows = [_row(key, before.get(key), after.get(key)) for key in {**before, **after}]
    judged = judge(pd.DataFrame(rows))
    order = judged["verdict"].map(VERDICTS.index)
    judged = judged.iloc[np.lexsort((-judged["effect"].abs().fillna(0), order))]
    return Comparison(
        base,
        new,
        judged.reset_index(drop=True),
        environment(base.facts, new.facts),
        [note for side in (base, new) for note in doubts(side.facts)],
    )


def judge(table: pd.DataFrame) -> pd.DataFrame:
    """With the column verdict, by effect, p and interval of all rows together."""
    none = [0.0] * len(table)
    words = differences.verdicts(list(table["effect"]), list(table["p"]), none)
    names = {"worse": "regressed", "better": "improved"}
    sure = (table["high"] <= TOLERANCE).tolist()
    verdicts = [
        names.get(word) or ("pass" if word and safe else "inconclusive")
        for word, safe in zip(words, sure, strict=True)
    ]
    return table.assign(verdict=verdicts)


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


def _figures(side: Selected) -> list[Side]:
    medians = boot_medians(side.files)
    return differences.sides_of(differences.comparable(medians), SERIES)


def _key(key: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(key[name] for name in SERIES)


def _row(key: tuple[str, ...], base: Side | None, new: Side | None) -> dict[str, Any]:
    row: dict[Hashable, Any] = {
        **dict(zip(SERIES, key, strict=True)),
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
        return row  # type: ignore[return-value]
    found = differences.difference(
        new.medians, base.medians, dict(zip(SERIES, key, strict=True))["better"]
    )
    row.update(effect=found.effect, low=found.low, high=found.high, p=found.p)
    fewest = min(base.medians.size, new.medians.size)
    flags = few(fewest)
    if math.isnan(found.effect):
        flags.append("the base is not above 0")
    elif math.isnan(found.p):
        flags.append("too few boots to tell")
    row["flags"] = flags
    return row  # type: ignore[return-value]


def _refuse_what_cannot_be(
    base: Selected, new: Selected, before: list[Side], after: list[Side]
) -> None:
    for name, what in (("cpu_model", "CPUs"), ("backend", "backends")):
        one, other = (
            _words({str(run.get(name, "")) for run in side.facts}) for side in (base, new)
        )
        if one != other:
            raise ResultError(
                f"{base.label} and {new.label} are of different {what}: {one}, {other}",
                mend="Compare runs of one kind of host: absolute figures of two say nothing about "
                "what changed.",
            )
    if not {_key(side.key) for side in before} & {_key(side.key) for side in after}:
        raise ResultError(
            f"{base.label} and {new.label} share no figure",
            mend="Run the same tests, on the same hypervisors and with the same profile, in both.",
        )
