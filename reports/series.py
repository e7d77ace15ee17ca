"""What comparison and history have in common: how a series, its change and its verdict are told."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.errors import ResultError
from harness.results import differences
from harness.results.compare import TOLERANCE, VERDICTS
from harness.results.schema import RunFacts, decode
from harness.results.statistics import WORK
from reports import text
from reports.page import EMULATED, Cell, KeyFigure, Section, Table, numbered, where, words

Row = Mapping[Hashable, Any]
STYLES = {"regressed": "bad", "improved": "good", "inconclusive": "soft", "pass": ""}
MEANINGS = {
    "regressed": "worse, and it is not chance",
    "improved": "better, and it is not chance",
    "inconclusive": "too few boots or too much noise to tell",
    "pass": f"no change shown, and not worse by {text.percent(TOLERANCE)}",
}
EFFECTS = (
    "Worse by",
    "Signed by direction: above 0 % is worse, whether more of the figure is better or less. Its "
    "interval covers 95 %: the boots of both sides are drawn again with replacement, 4,000 times.",
)
CHANCE = (
    "No chance",
    "By Mann and Whitney's exact test, with Benjamini and Hochberg's bound: of all that is called "
    f"a change, at most {text.percent(differences.FALSE_DISCOVERIES)} is expected to be none.",
)


@dataclass(frozen=True)
class Name:
    """How a series is called: its metric, its workload (""), its hypervisor."""

    metric: str
    workload: str
    hypervisor: str

    @property
    def line(self) -> str:
        workload = f" {self.workload}" if self.workload else ""
        return f"{self.metric}{workload} on {self.hypervisor}"


def names(table: pd.DataFrame) -> list[Name]:
    """Of each row: no longer than it takes to tell it from the others."""
    short = [_setting(parameters, frozenset(WORK)) for parameters in table["parameters"]]
    full = [_setting(parameters, frozenset()) for parameters in table["parameters"]]
    parts = table[["metric", "hypervisor", "backend", "unit", "better"]].assign(short=short)
    twice = parts.duplicated(keep=False).tolist()
    backends = table.groupby("hypervisor")["backend"].nunique()
    kinds = table["kind"] if "kind" in table else [""] * len(table)
    return [
        Name(
            str(metric),
            long if again else brief,
            (where(hypervisor, backend) if backends[hypervisor] > 1 else str(hypervisor))
            + (f", {kind}" if kind else ""),
        )
        for metric, hypervisor, backend, brief, long, again, kind in zip(
            *(table[name] for name in ("metric", "hypervisor", "backend")),
            *(short, full, twice, kinds),
            strict=True,
        )
    ]


def _setting(parameters: str, without: frozenset[str]) -> str:
    try:
        known = decode(parameters)
    except ResultError:
        return str(parameters)
    return text.setting({name: value for name, value in known.items() if name not in without})


def common(table: pd.DataFrame) -> list[str]:
    """The flags that every row has: what is to be said of all is said once."""
    flags = [set(found) for found in table["flags"]]
    return sorted(set.intersection(*flags)) if len(flags) > 1 else []


def verdict_cell(verdict: str) -> Cell:
    return Cell(verdict, verdict, style=f"verdict {STYLES.get(verdict, '')}".rstrip())


def effect_cell(effect: float) -> Cell:
    return Cell(text.signed(effect), float(effect))


def spread_cell(low: float, high: float) -> Cell:
    return Cell(text.shares(low, high), float(low))


def counted(counts: Mapping[str, int], meanings: Mapping[str, str] = MEANINGS) -> list[KeyFigure]:
    """How many of each verdict."""
    total = sum(counts.values())
    return [
        KeyFigure(
            verdict.capitalize(),
            f"{counts[verdict]:,}",
            f"of {text.count(total, 'figure')}: {meanings[verdict]}",
            measured=False,
            style=STYLES[verdict] if counts[verdict] else "",
        )
        for verdict in VERDICTS
    ]


def told(name: Name, row: Row, old: float, new: float) -> str:
    """One change in a sentence without its effect."""
    unit = str(row["unit"])
    said = f"{name.line}: {text.quantity(old, unit)} became {text.quantity(new, unit)}"
    interval = text.shares(row["low"], row["high"])
    return said + (f"; 95 % interval {interval}" if interval != text.NONE else "")


def environment(found: Sequence[tuple[str, str, str]], heads: tuple[str, str]) -> Section:
    """What differs between two hosts."""
    section = Section("environment", "What differs")
    if not found:
        section.missing = "Nothing that is known of the hosts differs."
        return section
    rows = [[words(name), words(before), words(after)] for name, before, after in found]
    caption = f"What differs between {heads[0]} and {heads[1]}, and may be why figures do"
    section.tables.append(Table(caption, numbered("Fact", *heads), rows))
    return section


def doubts(notes: Sequence[str]) -> Section:
    return Section(
        "doubts",
        "Doubts",
        lead=[f"{note}." for note in notes],
        missing="" if notes else "None: nothing is known that makes these figures doubtful.",
    )


def warnings(facts: Sequence[RunFacts], notes: Sequence[str]) -> list[str]:
    said = [EMULATED] if emulated(facts) else []
    if notes:
        more = f", and {text.count(len(notes) - 1, 'doubt')} more" if len(notes) > 1 else ""
        said.append(f"Doubtful: {notes[0]}{more}; see Doubts.")
    return said


def emulated(facts: Sequence[RunFacts]) -> bool:
    return any(run.get("emulated") or run.get("backend") == "emulated" for run in facts)


def host(facts: Sequence[RunFacts]) -> str:
    """Where they ran, as far as it was one kind of host."""
    if len({(run.get("backend"), run.get("cpu_model")) for run in facts}) > 1:
        return "hosts of several kinds"
    newest = facts[-1] if facts else RunFacts()
    backend = newest.get("backend") or "not known"
    return f"backend {backend} · {newest.get('cpu_model') or 'CPU not known'}"


def commit(facts: RunFacts) -> str:
    return short_commit(str(facts.get("commit", ""))) or "not known"


def short_commit(name: str) -> str:
    """Ten digits, and whether the checkout had changes of its own."""
    digits, dirty, _ = name.partition("-dirty")
    return digits[:10] + dirty


def commits(before: str, after: str) -> str:
    """ "1a2b..3c4d", as git takes it."""
    before, after = short_commit(before), short_commit(after)
    if not (before or after):
        return ""
    if before == after:
        return f"{after}, unchanged"
    return f"{before or '?'}..{after or '?'}"
