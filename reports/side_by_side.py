"""The hypervisors of a run side by side: every figure of each, and the effects between them."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.results import differences, statistics
from harness.results.figure_names import variants
from harness.results.schema import decode_parameters
from reports import text
from reports.page import (
    Cell,
    Run,
    Section,
    Table,
    columns,
    figure_cell,
    interval_heading,
    name_cell,
    names_as_text,
    text_cell,
)

BASELINE = "native"
# first part of a metric's name -> title of its table
GROUPS = {
    "boot": "Boot",
    "exit": "Exits, control subtracted",
    "io": "Disk",
    "net": "Network",
    "memory": "Memory",
    "interrupts": "Interrupts",
    "scheduler": "Scheduler",
    "isolation": "Isolation",
    "consolidation": "Consolidation",
}
# verdicts and times of a search, which say nothing side by side
NO_FIGURES = r"consolidation\.(point$|point\.|.*\.unanswered$)"
FIGURE = [*statistics.TEST, "metric", "parameters", "unit"]
VERDICT_STYLES = {"worse": "verdict bad", "better": "verdict good", "inconclusive": "soft"}
NOISY_HOST = "the two runs of the same hypervisor differ"
_REPEATED = re.compile(r"-\d+$")  # suffix of a hypervisor that --hypervisor names again

Pair = tuple[str, str]  # a hypervisor, and the one it is compared with


def hypervisors_section(run: Run) -> Section:
    """The figures that at least two hypervisors have."""
    section = Section("side-by-side", "Side by side")
    figures = _figures(run)
    names = _hypervisors(run, figures)
    if len(names) < 2:
        section.placeholder = _nothing_to_compare(run, names)
        return section
    effects = _effects(run, _pairs(names), _aa_pairs(names))
    if effects.noisy:
        section.lead.append(
            "Warning: a hypervisor that ran twice differs from itself in "
            f"{text.count(len(effects.noisy), 'figure')}. The host is too noisy for these figures: "
            "they are flagged and have no verdict."
        )
    rate, size = differences.FALSE_DISCOVERY_RATE, text.whole_percent(differences.MIN_EFFECT)
    section.lead += [
        "Values are medians of the boots' medians. An interval above 0 % is worse. The verdicts "
        "worse and better are significant by Mann and Whitney's test over boots, with a false "
        f"discovery rate of {text.whole_percent(rate)} (Benjamini-Hochberg), and above {size}. If "
        "a hypervisor ran twice, the effect is also above the difference between its two runs.",
        f"No difference: the whole interval is within {size}. Inconclusive: too few boots or too "
        "much noise for a verdict.",
    ]
    groups = figures["metric"].str.partition(".")[0]
    for group in ordered_groups(set(groups)):
        in_group = figures[groups == group]
        if in_group["hypervisor"].nunique() > 1:
            title = GROUPS.get(group, group)
            section.tables.append(_table(in_group, effects, names, title))
            section.notes += [f"All of {title}: {flag}." for flag in common_flags(in_group)]
    return section


def _nothing_to_compare(run: Run, measured: list[str]) -> str:
    named = _named(run)
    if len(named) < 2:
        return "This run has one hypervisor. Repeat the option --hypervisor to compare several."
    missing = [name for name in named if name not in measured]
    return f"There is nothing to compare: this run has no figures of {' and '.join(missing)}."


def _named(run: Run) -> list[str]:
    """The hypervisors of the command line."""
    return [name for name in run.facts.get("hypervisor", "").split(", ") if name]


def ordered_groups(groups: set[str]) -> list[str]:
    """The groups in the order of GROUPS, then the others by name."""
    return [*(group for group in GROUPS if group in groups), *sorted(groups - set(GROUPS))]


def common_flags(figures: pd.DataFrame) -> list[str]:
    """The flags that all figures have; a page shows them once."""
    return sorted(set.intersection(*map(set, figures["flags"])))


def _figures(run: Run) -> pd.DataFrame:
    """One row for each hypervisor and figure: FIGURE, hypervisor, median, boots, flags, variant."""
    plain = ~run.frame["metric"].str.match(rf"exit\.|{NO_FIGURES}|{statistics.UTILIZATION}")
    tables = [names_as_text(statistics.summarise(run.frame[plain]))]
    if len(run.costs):
        tables.append(run.costs[run.costs["kind"] == "ns"])
    names = [*FIGURE, "hypervisor", "median", "boots", "flags"]
    figures = pd.concat([table[names] for table in tables if len(table)] or [pd.DataFrame()])
    return figures.assign(variant=variants(figures)) if len(figures) else figures


def _hypervisors(run: Run, figures: pd.DataFrame) -> list[str]:
    """The hypervisors in the order of the command line, the baseline first."""
    measured = set(figures["hypervisor"]) if len(figures) else set()
    named = [name for name in _named(run) if name in measured]
    names = [*named, *sorted(measured - set(named))]
    return sorted(names, key=lambda name: name != BASELINE)


def _aa_pairs(names: list[str]) -> list[Pair]:
    """Hypervisors that ran twice, which gives an A/A test: ("kvm-2", "kvm")."""
    pairs = [(name, _REPEATED.sub("", name)) for name in names]
    return [(name, first) for name, first in pairs if first != name and first in names]


def _pairs(names: list[str]) -> list[Pair]:
    """The comparisons: all with the baseline, all with the first machine, and the A/A pairs."""
    machines = [name for name in names if _REPEATED.sub("", name) != BASELINE]
    pairs = [(name, BASELINE) for name in names if name != BASELINE and BASELINE in names]
    pairs += [(name, machines[0]) for name in machines[1:]]
    return list(dict.fromkeys([*pairs, *_aa_pairs(names)]))


@dataclass(frozen=True)
class _Effects:
    """The effects between hypervisors.

    rows: rows of differences.overheads with a verdict, by FIGURE and pair. noisy: the figures, by
    FIGURE, in which an A/A pair differs.
    """

    pairs: list[Pair]
    rows: dict[tuple[str, ...], dict[Hashable, Any]]
    noisy: set[tuple[str, ...]]


def _effects(run: Run, pairs: list[Pair], aa_pairs: list[Pair]) -> _Effects:
    rows: list[dict[Hashable, Any]] = []
    for base in dict.fromkeys(base for _, base in pairs):
        sides = {base, *(name for name, other in pairs if other == base)}
        frame = run.frame[run.frame["hypervisor"].isin(sides)]
        table = run.overheads if base == BASELINE else differences.overheads(frame, base)
        rows += table[table["host_boots"] > 0].assign(base=base).to_dict("records")
    for row, floor in zip(rows, _noise_floors(rows, aa_pairs), strict=True):
        row["floor"] = floor
    # A/A pairs are judged separately: many true differences would weaken the bound for them.
    names = ("overhead", "p", "floor", "low", "high")
    for is_aa in (True, False):
        group = [row for row in rows if (_pair(row) in aa_pairs) is is_aa]
        verdicts = differences.verdicts(*([row[name] for row in group] for name in names))
        for row, verdict in zip(group, verdicts, strict=True):
            row["verdict"] = verdict
    different = [row for row in rows if row["verdict"] in ("worse", "better")]
    noisy = {_key(row) for row in different if _pair(row) in aa_pairs}
    for row in rows:
        if _key(row) in noisy:
            row["verdict"] = "inconclusive"
    return _Effects(pairs, {(*_key(row), *_pair(row)): row for row in rows}, noisy)


def _key(row: dict[Hashable, Any]) -> tuple[str, ...]:
    """The figure of a row."""
    return tuple(str(row[name]) for name in FIGURE)


def _pair(row: dict[Hashable, Any]) -> Pair:
    return str(row["hypervisor"]), str(row["base"])


def _noise_floors(rows: list[dict[Hashable, Any]], aa_pairs: list[Pair]) -> list[float]:
    """The noise floor of each row, from the A/A pair of its figure; NaN without one.

    The floor is the far end of the A/A interval, since the A/A effect itself may be small by
    chance. An A/A pair has no floor.
    """
    floors: dict[tuple[str, ...], float] = {}
    for row in rows:
        if _pair(row) in aa_pairs:
            far_end = max(abs(row["low"]), abs(row["high"]))
            floor = far_end if math.isfinite(far_end) else abs(row["overhead"])
            floors[_key(row)] = max(floors.get(_key(row), 0.0), floor)
    return [math.nan if _pair(row) in aa_pairs else floors.get(_key(row), math.nan) for row in rows]


def _table(figures: pd.DataFrame, effects: _Effects, names: list[str], title: str) -> Table:
    common = set(common_flags(figures))
    names = [name for name in names if name in set(figures["hypervisor"])]
    pairs = [(name, base) for name, base in effects.pairs if {name, base} <= {*names}]
    rows = []
    for key, group in figures.groupby(FIGURE, sort=False):
        _, _, metric, parameters, unit = names_of_figure = tuple(map(str, key))
        medians = dict(zip(group["hypervisor"], group["median"], strict=True))
        if len(medians) < 2:
            continue
        decoded = decode_parameters(parameters).items()
        setting = {k: v for k, v in decoded if k not in statistics.WORK}
        flags = _attributed_flags(group, common)
        if names_of_figure in effects.noisy:
            flags.append(NOISY_HOST)
        row: list[Cell] = [name_cell(metric.partition(".")[2], flags)]
        workload = ", ".join(filter(None, (group["variant"].iloc[0], text.setting(setting))))
        row += [text_cell(workload), text_cell(text.unit(unit))]
        row += [figure_cell(medians.get(name, float("nan"))) for name in names]
        for pair in pairs:
            row += _effect_cells(effects.rows.get((*names_of_figure, *pair)))
        rows.append(row)
    interval = interval_heading(figures["boots"]).removesuffix(" interval").lower()
    head = columns(
        *("Figure", "Workload", "Unit", *(f"#{name}" for name in names)),
        *(
            label
            for name, base in pairs
            for label in (
                f"#{name} vs {base}",
                f"#{name} vs {base}, {interval}",
                f"{name} vs {base}, verdict",
            )
        ),
    )
    return Table(f"{title}: {', '.join(names)}", head, rows)


def _attributed_flags(figures: pd.DataFrame, common: set[str]) -> list[str]:
    """The flags of a figure, with the hypervisors that have them when others do not."""
    having: dict[str, list[str]] = {}
    for name, flags in zip(figures["hypervisor"], figures["flags"], strict=True):
        for flag in set(flags) - common:
            having.setdefault(flag, []).append(str(name))
    everyone = len(figures)
    return [
        flag if len(names) == everyone else f"{', '.join(sorted(names))}: {flag}"
        for flag, names in sorted(having.items())
    ]


def _effect_cells(row: dict[Hashable, Any] | None) -> list[Cell]:
    """Effect, interval and verdict."""
    if row is None:
        return [text_cell("")] * 3
    effect, verdict = float(row["overhead"]), row["verdict"]
    low, high = row["low"], row["high"]
    return [
        Cell(text.worse_or_better(effect), effect),
        Cell(text.signed_interval(low, high), float(low)),
        Cell(verdict or text.NONE, verdict, style=VERDICT_STYLES.get(verdict, "")),
    ]
