"""What runs report about their hosts: which runs are comparable, and what differs between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.results.schema import RunFacts

# Absolute figures are comparable only between runs that agree in these.
CONFIGURATION = ("cpu_model", "backend", "profile")
# facts that may explain a difference between figures
EXPLANATORY_FACTS = (
    *("host", "hostname", "cpu_model", "cpus", "memory", "kernel", "microcode", "governor", "smt"),
    *("mitigations", "image", "versions", "fingerprint", "profile"),
)


def configuration_of(facts: RunFacts) -> tuple[str, ...]:
    """The values of CONFIGURATION.

    A run without a profile is older than profiles and was a short one. A run without a CPU model
    gets its own name, so that no other run has the same configuration.
    """
    known = {"profile": "short", "cpu_model": facts.get("run", ""), **facts}
    return tuple(str(known.get(name, "")) for name in CONFIGURATION)


def environment_differences(
    base: Sequence[RunFacts], new: Sequence[RunFacts]
) -> list[tuple[str, str, str]]:
    """The EXPLANATORY_FACTS that differ: name, values of the base runs, values of the new runs."""
    differences = []
    for name in EXPLANATORY_FACTS:
        base_values, new_values = (_values(facts, name) for facts in (base, new))
        for part in sorted({**base_values, **new_values}):
            before, after = base_values.get(part, set()), new_values.get(part, set())
            if before != after:
                differences.append((part, joined(before), joined(after)))
    return differences


def _values(facts: Sequence[RunFacts], name: str) -> dict[str, set[str]]:
    """All values of a fact over several runs; each entry of a mapping counts as a fact."""
    values: dict[str, set[str]] = {}
    for run in facts:
        value: object = run.get(name, "")
        parts = value if isinstance(value, Mapping) else {"": value}
        for part, entry in parts.items():
            values.setdefault(f"{name}: {part}" if part else name, set()).add(str(entry))
    return values


def joined(values: set[str]) -> str:
    """The values as one text; "not known" for none."""
    return ", ".join(sorted(filter(None, values))) or "not known"


def caveats(facts: Sequence[RunFacts]) -> list[str]:
    """Reasons to doubt the figures of runs."""
    notes = []
    for run in facts:
        name = run.get("run", "a run")
        if not run.get("complete", True):
            notes.append(f"{name} is incomplete: its session did not end normally")
        if run.get("end", "") and run.get("start", "") > run.get("end", ""):
            notes.append(f"{name}: the clock went back during the run")
    return notes
