"""Names, cells, sentences and sections shared by the comparison and the history."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.errors import ResultError
from harness.results import differences
from harness.results.compare import NOT_COMPARED, TOLERANCE
from harness.results.figure_names import variants
from harness.results.schema import RunFacts, decode_parameters
from harness.results.statistics import CONFIDENCE, WORK, reaches_confidence
from reports import text
from reports.page import (
    CONFIDENT_INTERVAL,
    EMULATED,
    Cell,
    KeyFigure,
    Section,
    Table,
    columns,
    interval_heading,
    target_label,
    text_cell,
)

Row = Mapping[Hashable, Any]
STYLES = {
    "regressed": "bad",
    "improved": "good",
    "inconclusive": "soft",
    "pass": "",
    NOT_COMPARED: "soft",
}
MEANINGS = {
    "regressed": "significantly worse",
    "improved": "significantly better",
    "inconclusive": "too few boots or too much noise for a verdict",
    "pass": f"no difference shown, and a regression by {text.whole_percent(TOLERANCE)} is excluded",
    NOT_COMPARED: "one side alone has them",
}
EFFECTS = (
    "Worse by",
    "The effect, signed by the better direction: above 0 % is always worse. The interval is a "
    "bootstrap over the boots of both sides, with 4,000 draws. It covers "
    f"{text.whole_percent(CONFIDENCE)} if each side has six boots or more, else less.",
)
SIGNIFICANCE = (
    "Significance",
    "Mann and Whitney's exact test over boots, with Benjamini and Hochberg's procedure over all "
    "figures: the expected share of false differences is at most "
    f"{text.whole_percent(differences.FALSE_DISCOVERY_RATE)}.",
)
SAME_ENVIRONMENT = "All known facts of the hosts are equal."


@dataclass(frozen=True)
class Name:
    """The display name of a series: metric, workload ("" for none), hypervisor."""

    metric: str
    workload: str
    hypervisor: str

    @property
    def line(self) -> str:
        workload = f" {self.workload}" if self.workload else ""
        return f"{self.metric}{workload} on {self.hypervisor}"


def series_names(table: pd.DataFrame) -> list[Name]:
    """A name for each row; details appear only where they distinguish rows."""
    tests = variants(table)
    short, full = (
        [
            ", ".join(filter(None, (test, _setting(parameters, without))))
            for test, parameters in zip(tests, table["parameters"], strict=True)
        ]
        for without in (frozenset(WORK), frozenset[str]())
    )
    parts = table[["metric", "hypervisor", "backend", "unit", "better"]].assign(short=short)
    ambiguous = parts.duplicated(keep=False).tolist()
    backends = table.groupby("hypervisor")["backend"].nunique()
    configurations = table["configuration"] if "configuration" in table else [""] * len(table)
    settings = [
        long if again else brief for long, brief, again in zip(full, short, ambiguous, strict=True)
    ]
    return [
        Name(
            str(metric),
            setting,
            (target_label(hypervisor, backend) if backends[hypervisor] > 1 else str(hypervisor))
            + (f", {configuration}" if configuration else ""),
        )
        for metric, hypervisor, backend, setting, configuration in zip(
            *(table[name] for name in ("metric", "hypervisor", "backend")),
            *(settings, configurations),
            strict=True,
        )
    ]


def _setting(parameters: str, without: frozenset[str]) -> str:
    try:
        known = decode_parameters(parameters)
    except ResultError:
        return str(parameters)
    return text.setting({name: value for name, value in known.items() if name not in without})


def common_flags(table: pd.DataFrame) -> list[str]:
    """The flags that all rows have; a page shows them once."""
    flags = [set(row) for row in table["flags"]]
    return sorted(set.intersection(*flags)) if len(flags) > 1 else []


def verdict_cell(verdict: str) -> Cell:
    return Cell(verdict, verdict, style=f"verdict {STYLES.get(verdict, '')}".rstrip())


def effect_cell(effect: float) -> Cell:
    return Cell(text.signed(effect), float(effect))


def effect_interval_cell(low: float, high: float) -> Cell:
    return Cell(text.signed_interval(low, high), float(low))


def verdict_figures(
    counts: Mapping[str, int], meanings: Mapping[str, str] = MEANINGS
) -> list[KeyFigure]:
    """A key figure for each verdict: the number of its series."""
    total = sum(counts.values())
    return [
        KeyFigure(
            verdict.capitalize(),
            f"{count:,}",
            f"of {text.count(total, 'figure')}: {meanings[verdict]}",
            measured=False,
            style=STYLES[verdict] if count else "",
        )
        for verdict, count in counts.items()
    ]


def change_sentence(name: Name, row: Row, old: float, new: float) -> str:
    """The levels and the interval of a change, without its effect."""
    unit = str(row["unit"])
    sentence = f"{name.line}: from {text.quantity(old, unit)} to {text.quantity(new, unit)}"
    interval = text.signed_interval(row["low"], row["high"])
    if interval == text.NONE:
        return sentence
    boots = [row[name] for name in ("base_boots", "new_boots") if name in row]
    supported = all(map(reaches_confidence, boots))
    return f"{sentence}; {CONFIDENT_INTERVAL if supported else 'interval of few boots'} {interval}"


def interval_column(table: pd.DataFrame) -> str:
    """The heading of the intervals of a comparison's effects."""
    boots = table.loc[table["low"].notna(), ["base_boots", "new_boots"]].min(axis=1)
    return interval_heading(boots)


def environment_section(
    environment: Sequence[tuple[str, str, str]], labels: tuple[str, str]
) -> Section:
    """The facts that differ between two sides."""
    section = Section("environment", "Environment")
    if not environment:
        section.placeholder = SAME_ENVIRONMENT
        return section
    rows = [
        [text_cell(name), text_cell(before), text_cell(after)]
        for name, before, after in environment
    ]
    caption = f"Facts that differ between {labels[0]} and {labels[1]}"
    section.tables.append(Table(caption, columns("Fact", *labels), rows))
    return section


def caveats_section(notes: Sequence[str]) -> Section:
    return Section(
        "caveats",
        "Caveats",
        lead=[f"{note}." for note in notes],
        placeholder="" if notes else "None: there is no known reason to doubt these figures.",
    )


def warnings(facts: Sequence[RunFacts], notes: Sequence[str]) -> list[str]:
    """The banners of a page."""
    banners = [EMULATED] if any_emulated(facts) else []
    if notes:
        more = f", and {len(notes) - 1} more" if len(notes) > 1 else ""
        banners.append(f"Caveat: {notes[0]}{more}; see Caveats.")
    return banners


def any_emulated(facts: Sequence[RunFacts]) -> bool:
    return any(run.get("emulated") or run.get("backend") == "emulated" for run in facts)


def host_label(facts: Sequence[RunFacts]) -> str:
    """Backend and CPU of the runs, if all have the same."""
    if len({(run.get("backend"), run.get("cpu_model")) for run in facts}) > 1:
        return "hosts with different backends or CPUs"
    newest = facts[-1] if facts else RunFacts()
    backend = newest.get("backend") or "not known"
    return f"backend {backend} · {newest.get('cpu_model') or 'CPU not known'}"


def commit(facts: RunFacts) -> str:
    return short_commit(str(facts.get("commit", ""))) or "not known"


def short_commit(name: str) -> str:
    """Ten digits, with "-dirty" for a modified checkout."""
    digits, dirty, _ = name.partition("-dirty")
    return digits[:10] + dirty


def commit_range(before: str, after: str) -> str:
    """A range of commits in git's notation: "1a2b..3c4d"."""
    before, after = short_commit(before), short_commit(after)
    if not (before or after):
        return ""
    if before == after:
        return f"{after}, unchanged"
    return f"{before or '?'}..{after or '?'}"
