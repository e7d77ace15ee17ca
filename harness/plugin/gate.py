"""`--virt-baseline` and `--virt-gate`: comparison of the session's run with an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.results.compare import (
    Comparison,
    compare,
    format_counts,
    format_effect,
    format_figure,
    format_levels,
)
from harness.results.selection import RunSelection, select_runs
from harness.results.store import runs

MAX_FIGURES = 10  # regressions that are listed
MORE_BOOTS = "use --virt-profile=full, or more boots in the marker boots"


@dataclass(frozen=True)
class Gate:
    """The baseline of a session, selected before the session writes its own run.

    history: the runs of the store at that time.
    """

    base: RunSelection
    history: Sequence[Path] = ()

    @classmethod
    def from_store(cls, store: Path, selector: str) -> Gate:
        """Raises ResultError when the selector matches no run; see select_runs."""
        return cls(select_runs(store, selector), runs(store))

    def compare(self, run: Path) -> Comparison:
        """Compare the session's run with the baseline. Raises ResultError; see compare."""
        return compare(self.base, select_runs(run.parent, str(run)), self.history)


def lines(comparison: Comparison) -> Iterator[str]:
    """The lines for the terminal: the number of each verdict, the regressions, the environment."""
    base = comparison.base
    counts = format_counts(comparison.counts)
    yield f"against {base.label} ({', '.join(base.names)}): {counts}"
    table = comparison.table
    regressed = table[table["verdict"] == "regressed"].to_dict("records")
    for row in regressed[:MAX_FIGURES]:
        figure = f"{format_figure(row)} ({row['hypervisor']})"
        yield f"regressed: {figure} by {format_effect(row)}: {format_levels(row)}"
    if len(regressed) > MAX_FIGURES:
        yield f"and {len(regressed) - MAX_FIGURES} more"
    if not comparison.has_power:
        yield _missing_power(comparison)
    for name, before, after in comparison.environment:
        yield f"differs: {name}: {before} to {after}"
    yield from comparison.notes


def _missing_power(comparison: Comparison) -> str:
    """Why no regression could be shown, and what to do."""
    table = comparison.table
    if table["p"].notna().any():
        return (
            "there are too few boots for so many figures: one regression could not be shown "
            f"({MORE_BOOTS}, or run fewer tests)"
        )
    if table["effect"].notna().any():
        return f"there are too few boots: no regression could be shown ({MORE_BOOTS})"
    return "no figure has a base above 0: no regression could be shown (choose another baseline)"
