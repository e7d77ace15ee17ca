"""Findings about data: one sentence for each code, with a count and names of machines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from harness.planner.trace import Finding

MAX_MACHINES = 500  # names in one finding

# A sentence says what was found and what was done with it. The count is beside it.
_SENTENCES: dict[str, tuple[Literal["note", "warning"], str]] = {
    "short-trace": (
        "warning",
        "The samples cover {days:.1f} days. A week has seven, and its busiest hour is unknown.",
    ),
    "gap": (
        "warning",
        "Gaps of more than 15 minutes stay gaps. Nothing is planned for these times.",
    ),
    "missing-values": (
        "warning",
        "Values that are missing for more than 15 minutes, beside others of the same time, stay "
        "unknown.",
    ),
    "clock-change": (
        "warning",
        "Samples in an hour that a clock change of {zone} repeats or leaves out have no certain "
        "time. They are a gap.",
    ),
    "counter-reset": (
        "warning",
        "An interval in which a counter was reset, as by a restart, is a gap.",
    ),
    "without-trace": ("warning", "Machines without samples are planned by their allocation."),
    "without-inventory": (
        "warning",
        "Machines in no inventory get as many vCPUs as their highest CPU demand, rounded up.",
    ),
    "memory-above-allocation": (
        "warning",
        "Some samples of memory exceed what the inventory says the machine has. They are kept.",
    ),
    "open-bucket": (
        "warning",
        "Sizes in an open bucket are guesses. More than 24 cores count as 30, more than 64 GiB "
        "as 70, as in the notebooks of the data set.",
    ),
    "no-vcpus": (
        "warning",
        "Intervals in which the source reports a machine without vCPUs have no CPU demand. "
        "The machine was probably off.",
    ),
    "same-name": (
        "warning",
        "Machines with the name of another one got a number behind their name.",
    ),
    "carried": (
        "note",
        "Values that are missing for up to 15 minutes are those of the sample before.",
    ),
    "duplicate": (
        "note",
        "Of several samples of a machine with the same time, the last one counts.",
    ),
    "clock-drift": (
        "note",
        "Of two samples in one step, as clocks that drift cause them, the higher one counts.",
    ),
    "resampled": (
        "note",
        "Samples were averaged to steps of {step:g} s. The highest CPU demand of each is kept.",
    ),
    "above-vcpus": (
        "note",
        "Samples that exceed the machine's vCPUs by up to 20 % are kept as they are.",
    ),
    "inventory-conflict": (
        "note",
        "Where inventories differ about a machine, the last one counts.",
    ),
    "powered-off": (
        "note",
        "Machines that are powered off are not planned. They count in what is allocated only.",
    ),
    "template": ("note", "Templates are not planned. They count in what is allocated only."),
}


@dataclass
class _Entry:
    count: int = 0
    machines: dict[str, None] = field(default_factory=dict)
    parameters: dict[str, object] = field(default_factory=dict)


class FindingLog:
    """Collects findings by code. Add the same code as often as needed."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def add(
        self, code: str, count: int = 1, machines: Iterable[str] = (), **parameters: object
    ) -> None:
        """A count of 0 adds nothing. Raises KeyError for a code without a sentence."""
        _SENTENCES[code]
        if not count:
            return
        entry = self._entries.setdefault(code, _Entry())
        entry.count += count
        entry.parameters.update(parameters)
        for name in machines:
            if len(entry.machines) >= MAX_MACHINES:
                break
            entry.machines[name] = None

    def findings(self) -> tuple[Finding, ...]:
        """Warnings first; within them in the order of the table of sentences."""
        found = []
        for code, (severity, sentence) in _SENTENCES.items():
            if entry := self._entries.get(code):
                text = sentence.format(**entry.parameters)
                found.append(Finding(code, severity, text, entry.count, tuple(entry.machines)))
        return tuple(sorted(found, key=lambda finding: finding.severity != "warning"))
