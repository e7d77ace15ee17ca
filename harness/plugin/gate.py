"""`--virt-baseline` and `--virt-gate`: a session's run against an earlier one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.results.compare import Comparison, compare, format_effect, format_figure, format_levels
from harness.results.selection import RunSelection, select_runs
from harness.results.store import runs

MOST = 10  # figures that are told one by one
NO_POWER = (
    "too few boots for so many figures: one that regressed alone could not be shown (take "
    "--virt-profile=full, or fewer tests)"
)


@dataclass(frozen=True)
class Gate:
    """base: chosen before the session's own run is there. history: the runs that were there."""

    base: RunSelection
    history: Sequence[Path] = ()

    @classmethod
    def at(cls, store: Path, word: str) -> Gate:
        """Raises ResultError when the word means no run; see select_runs."""
        return cls(select_runs(store, word), runs(store))

    def compare(self, run: Path) -> Comparison:
        """With the session's own run. Raises ResultError when they cannot be compared."""
        return compare(self.base, select_runs(run.parent, str(run)), self.history)


def lines(found: Comparison) -> Iterator[str]:
    """For the terminal: how many of each verdict, and what regressed."""
    told = ", ".join(f"{count} {verdict}" for verdict, count in found.counts.items())
    yield f"against {found.base.label} ({', '.join(found.base.names)}): {told}"
    worse = found.table[found.table["verdict"] == "regressed"].to_dict("records")
    for row in worse[:MOST]:
        figure = f"{format_figure(row)} ({row['hypervisor']})"
        yield f"regressed: {figure} by {format_effect(row)}: {format_levels(row)}"
    if len(worse) > MOST:
        yield f"and {len(worse) - MOST} more"
    if not found.has_power:
        yield NO_POWER
    for name, before, after in found.environment:
        yield f"differs: {name}: {before} to {after}"
    yield from found.notes
