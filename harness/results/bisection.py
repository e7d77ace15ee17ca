"""Confirmation of a regression between two revisions, and the search for its first commit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, ResultError
from harness.results.compare import SERIES, format_effect, format_figure, format_levels
from harness.results.paired_comparison import compare_pairs, required_pairs

# Takes two commits; yields run files of both (base, new), measured A B B A, without end.
MeasurePairs = Callable[[str, str], Iterator[tuple[Path, Path]]]
Log = Callable[[str], None]


@dataclass(frozen=True)
class ConfirmedRegression:
    """A figure that is confirmed to be worse. row: of PairedComparison.table."""

    row: dict[Any, Any]

    @property
    def effect(self) -> float:
        return float(self.row["effect"])

    @property
    def summary(self) -> str:
        row = self.row
        return (
            f"{format_figure(row)} ({row['hypervisor']}, {row['backend']}) is worse by "
            f"{format_effect(row)}, p {row['p']:.3g}, {row['pairs']} pairs: {format_levels(row)}"
        )


@dataclass(frozen=True)
class Bisection:
    """The result of a search. first_bad: the first commit that is measured to be worse.
    unmeasured: number of commits directly before it that could not be measured."""

    first_bad: str
    unmeasured: int


def confirm_regression(
    measure: MeasurePairs, base: str, new: str, rounds: int | None = None, series: str = ""
) -> ConfirmedRegression | None:
    """Measure two commits; return the confirmed regression with the largest effect, or None.

    rounds: number of pairs (default: as many as one regression among all figures needs). series: id
    of the only series to test. Raises HarnessError when `rounds` is too small for a verdict, and
    when a measurement fails.
    """
    if base == new:
        raise HarnessError(f"both revisions are {base[:12]}", hint="name two different revisions")
    measurements = measure(base, new)
    pairs = [next(measurements)]
    figures = len(compare_pairs(pairs, series).table)
    required = required_pairs(figures)
    if rounds is not None and rounds < required:
        raise HarnessError(
            f"{rounds} rounds cannot show a regression among {figures} figures",
            hint=f"use --rounds={required}, or name one figure with --series "
            f"(--rounds={required_pairs(1)} is enough for one)",
        )
    pairs += itertools.islice(measurements, (rounds or required) - 1)
    table = compare_pairs(pairs, series).regressed
    return ConfirmedRegression(table.iloc[0].to_dict()) if len(table) else None


def find_first_bad(
    measure: MeasurePairs,
    base: str,
    commits: Sequence[str],
    regression: ConfirmedRegression,
    log: Log,
) -> Bisection:
    """Bisect to the first commit with more than half of the effect of a confirmed regression.

    commits: from the one after base to the bad one, oldest first. A commit that cannot be measured
    is skipped.
    """
    good, bad = -1, len(commits) - 1  # indices; -1 is the base
    broken: set[int] = set()
    while candidates := [n for n in range(good + 1, bad) if n not in broken]:
        middle = min(candidates, key=lambda n: abs(n - (good + bad) / 2))
        commit = commits[middle]
        log(f"{bad - good - 1} commits left; measuring {commit[:12]}")
        try:
            effect = _effect(measure, base, commit, regression, log)
        except (HarnessError, ResultError) as error:
            log(f"skipped: {error}")
            broken.add(middle)
            continue
        if effect > regression.effect / 2:
            bad = middle
        else:
            good = middle
    return Bisection(commits[bad], bad - good - 1)


def _effect(
    measure: MeasurePairs, base: str, commit: str, regression: ConfirmedRegression, log: Log
) -> float:
    """The effect of a commit, relative to base, on the figure of a regression."""
    pairs = list(itertools.islice(measure(base, commit), required_pairs(1)))
    table = compare_pairs(pairs).table
    same_figure = (table[SERIES] == [regression.row[name] for name in SERIES]).all(axis=1)
    if not same_figure.any():
        raise ResultError(
            f"{commit[:12]} does not measure {regression.row['metric']}",
            hint="use a command that measures this metric in every commit",
        )
    row = table[same_figure].iloc[0].to_dict()
    log(f"  worse by {format_effect(row)}")
    return float(row["effect"])
