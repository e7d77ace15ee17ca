"""Sections of what was measured in guests: boot, exits, I/O."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from harness.results import statistics
from harness.results.schema import decode
from reports import figures, text
from reports.figures import Bar, Dot, Figure, Pair
from reports.page import (
    STAGES,
    Run,
    Section,
    Table,
    figure_cell,
    fixed_cell,
    interval_cell,
    name_cell,
    named,
    numbered,
    share,
    where,
    whole,
    words,
)

MOST_BARS = 12
GROUP = [*statistics.WHERE, "parameters"]
SPREAD = "95 % interval"

CASES = {
    "control": "the empty loop; subtracted from the others",
    "hypercall_null": "a hypercall to KVM and back",
    "cpuid": "CPUID, answered by KVM",
    "msr_read": "a model-specific register, read by KVM",
    "pio_kernel": "a port that KVM serves in the kernel, where its interrupt controller is there",
    "pio_user": "a port that the VMM serves in user space",
    "mmio_user": "an address that the VMM serves in user space",
    "mmio_eventfd": "an address whose writes KVM hands to an eventfd",
}
IO_NAMES = {
    "io.iops": "operations a second",
    "io.clat.p50": "latency, median",
    "io.clat.p99": "latency, 99th percentile",
    "io.clat.p99.9": "latency, 99.9th percentile",
    "io.cpu": "the host's CPU time an operation",
    "io.exits": "exits an operation",
    "io.user_exits": "exits that reach the VMM, an operation",
}


def boot(run: Run) -> Section:
    section = Section("boot", "Boot")
    if run.boots.empty:
        section.missing = "No boot samples in this run."
        return section
    for key, group in run.boots.groupby(GROUP, dropna=False):
        known = _named(key)
        title = f"{where(known['hypervisor'], known['backend'])}, {known['setting']}".rstrip(", ")
        table = group.assign(stage=group["metric"].str.removeprefix("boot."))
        table = table.sort_values("stage", key=lambda names: names.map(_stage_order))
        spent = _spent(run.frame, known)
        if len(spent):
            section.figures.append(_boot_figure(spent, title))
        rows = [
            [
                name_cell(row["stage"], row["flags"]),
                figure_cell(row["median"]),
                interval_cell(row["low"], row["high"]),
                figure_cell(row["min"]),
                figure_cell(row["p99"]),
                share(row["cv"]),
                figure_cell(
                    spent[row["stage"]].median() if row["stage"] in spent else float("nan")
                ),
                whole(row["n"]),
                whole(row["boots"]),
            ]
            for row in table.to_dict("records")
        ]
        head = numbered(
            *("Reached", "#Median, s", f"#{SPREAD}, s", "#Min, s", "#p99, s", "#Spread (CV)"),
            *("#This stage alone, s", "#n", "#Boots"),
        )
        caption = f"Time from create until each stage is reached: {title}"
        section.tables.append(Table(caption, head, rows))
    return section


def _stage_order(name: str) -> int:
    return STAGES.index(name) if name in STAGES else len(STAGES)


def _named(key: Hashable) -> dict[str, str]:
    known: dict[str, str] = dict(zip(GROUP, key, strict=True))  # type: ignore[call-overload]
    known["setting"] = text.setting(decode(known["parameters"]))
    return known


def _spent(frame: pd.DataFrame, known: dict[str, str]) -> pd.DataFrame:
    """Seconds of each boot in each stage: one row a boot, columns in the stages' order."""
    mine = frame[frame["metric"].isin([f"boot.{stage}" for stage in STAGES])]
    for name in GROUP:
        mine = mine[mine[name] == known[name]]
    reached = mine.pivot_table(index=statistics.BOOT, columns="metric", values="value")
    reached = reached[[f"boot.{s}" for s in STAGES if f"boot.{s}" in reached]].dropna()
    spent = reached.diff(axis=1)
    if not reached.empty:
        spent.iloc[:, 0] = reached.iloc[:, 0]
    return spent.rename(columns=lambda name: str(name).removeprefix("boot."))


def _boot_figure(spent: pd.DataFrame, title: str) -> Figure:
    shown = spent.head(MOST_BARS)
    bars = [
        Bar(f"boot {i + 1}", {str(k): max(float(v), 0.0) for k, v in row.items()})
        for i, row in enumerate(shown.to_dict("records"))
    ]
    caption = f"Boot timeline, {title}: {text.count(len(spent), 'boot')}, n = 1 a boot and stage"
    if len(spent) > len(shown):
        caption += f"; the first {len(shown)} are drawn"
    detail = "Stacked bars, one a boot: seconds until " + ", ".join(map(str, spent.columns))
    return figures.figure(caption, figures.stacked(caption, detail, bars, "s"))


def exits(run: Run) -> Section:
    section = Section("exits", "Hypercalls and exits")
    costs = run.costs[run.costs["kind"] == "ns"] if len(run.costs) else run.costs
    if costs.empty:
        section.missing = "No exit costs in this run (or none with a control beside it)."
        return section
    control = _control(run, "exit.control")
    cycles = pd.concat(
        [run.costs[run.costs["kind"] == "cycles"], _control(run, "exit.control.cycles")]
    )
    section.lead += _control_words(run)
    for key, table in costs.groupby(statistics.WHERE, dropna=False):
        known = dict(zip(statistics.WHERE, map(str, key), strict=True))
        title = where(known["hypervisor"], known["backend"])
        rings = {decode(parameters).get("ring") for parameters in table["parameters"]} - {None}
        title += "".join(f", ring {ring}" for ring in sorted(map(str, rings)))
        everything: pd.DataFrame = pd.concat(
            [control[_same(control, known)], table], ignore_index=True
        )
        cells = [_exit_row(cycles, row) for row in everything.to_dict("records")]
        head = numbered(
            *("Case", "#Cost, ns", f"#{SPREAD}, ns", "#Min, ns", "#p99, ns"),
            *("#Spread (CV)", "#TSC cycles", "#Exits an operation", "#n", "#Boots"),
        )
        caption = f"Cost of one operation, control subtracted: {title}"
        section.tables.append(Table(caption, head, cells))
        section.figures += _exit_figure(table, title)
    return section


def _same(table: pd.DataFrame, known: Mapping[str, str]) -> pd.Series:
    return pd.Series((table[list(known)] == pd.Series(known)).all(axis=1))


def _control_words(run: Run) -> list[str]:
    said = []
    for row in statistics.control_cycles(run.frame).to_dict("records"):
        verdict = "more than a real CPU's: no cost here is published as hardware's"
        if not row["emulated"] and run.emulated:
            verdict = "which alone would not give the emulated CPU away; no cost here is hardware's"
        elif not row["emulated"]:
            verdict = "as a real CPU does"
        cost = f"{text.number(row['cycles'])} TSC cycles an instruction"
        said.append(
            f"On {where(row['hypervisor'], row['backend'])} the empty control loop takes {cost}, "
            f"{verdict}."
        )
    return said


def _control(run: Run, metric: str) -> pd.DataFrame:
    """The empty loop's own figures."""
    table = statistics.summarise(run.frame[run.frame["metric"] == metric])
    return statistics.with_exits(named(table).assign(case="control"), run.frame)


def _exit_row(cycles: pd.DataFrame, row: dict[Hashable, Any]) -> list[Any]:
    parameters = decode(row["parameters"])
    setting = text.setting({k: v for k, v in parameters.items() if k not in statistics.WORK})
    means = "; ".join(part for part in (CASES.get(row["case"], ""), setting) if part)
    return [
        name_cell(row["case"], row["flags"], means),
        figure_cell(row["median"]),
        interval_cell(row["low"], row["high"]),
        figure_cell(row["min"]),
        figure_cell(row["p99"]),
        share(row["cv"]),
        figure_cell(_beside(cycles, row).get("median", float("nan"))),
        fixed_cell(row["exits"]),
        whole(row["n"]),
        whole(row["boots"]),
    ]


def _beside(table: pd.DataFrame, row: dict[Hashable, Any]) -> dict[Hashable, Any]:
    """The row of `table` for the same case and setting, or the only one for the case."""
    known = {name: row[name] for name in (*statistics.WHERE, "case")}
    mine = table[_same(table, known)] if len(table) else table
    exact = mine[mine["parameters"] == row["parameters"]] if len(mine) else mine
    found = exact if len(exact) == 1 else mine
    return found.to_dict("records")[0] if len(found) == 1 else {}


def _exit_figure(table: pd.DataFrame, title: str) -> list[Figure]:
    dots = [
        Dot(
            row["case"],
            row["median"],
            (row["low"], row["high"]) if row["low"] > 0 else None,
            f"{row['case']}: {text.number(row['median'])} ns, {SPREAD} "
            f"{text.span(row['low'], row['high'])}, {text.count(row['boots'], 'boot')}",
        )
        for row in table.sort_values("median").to_dict("records")
        if row["median"] > 0
    ]
    if not dots:
        return []
    boots, n = int(table["boots"].min()), int(table["n"].min())
    caption = (
        f"Cost of one operation on {title}, logarithmic: median and {SPREAD}; "
        f"{text.count(boots, 'boot')}, n = {n:,} a case"
    )
    detail = "; ".join(dot.hint for dot in dots)
    return [figures.figure(caption, figures.intervals(caption, detail, dots, "ns"))]


def io(run: Run) -> Section:
    section = Section("io", "I/O overhead")
    table = run.overheads[run.overheads["metric"].str.startswith("io.")]
    if table.empty:
        native = run.frame["metric"].str.startswith("io.").any()
        section.missing = (
            "I/O was measured on the host only: no guest's samples to set beside it."
            if native
            else "No I/O samples in this run."
        )
        return section
    for metric, name in (("io.iops", "Operations a second"), ("io.clat.p99", "Latency, p99")):
        for key, group in table[table["metric"] == metric].groupby(["hypervisor", "backend"]):
            section.figures += _io_figure(group, f"{name}: {where(*map(str, key))} beside its host")
    section.tables += [
        _io_table(group, where(*map(str, key)))
        for key, group in table.groupby(["hypervisor", "backend"])
    ]
    return section


def _io_table(table: pd.DataFrame, title: str) -> Table:
    order = {name: i for i, name in enumerate(IO_NAMES)}
    table = table.sort_values(
        "metric", key=lambda names: names.map(lambda n: order.get(n, len(order))), kind="stable"
    )
    rows = [
        [
            name_cell(IO_NAMES.get(row["metric"], row["metric"]), row["flags"]),
            words(text.setting(decode(row["parameters"]))),
            words(text.unit(row["unit"])),
            figure_cell(row["host_value"]),
            figure_cell(row["guest"]),
            share(row["overhead"]),
            interval_cell(row["low"] * 100, row["high"] * 100),
            words(f"{row['host_n']}, {row['guest_n']}"),
            words(f"{row['host_boots']}, {row['guest_boots']}"),
        ]
        for row in table.to_dict("records")
    ]
    head = numbered(
        *("Figure", "Workload", "Unit", "#Host", "#Guest", "#Overhead", f"#{SPREAD}, %"),
        *("n host, guest", "Boots host, guest"),
    )
    caption = f"I/O in the guest beside the same on its host, {title}; overhead above 0 is worse"
    return Table(caption, head, rows)


def _io_figure(group: pd.DataFrame, title: str) -> list[Figure]:
    known = group.dropna(subset=["overhead"])
    if known.empty:
        return []
    unit = str(known["unit"].iloc[0])
    rows = []
    for row in known.to_dict("records"):
        change = row["guest"] / row["host_value"] - 1
        sign = "+" if change >= 0 else ""
        label = text.setting(decode(row["parameters"]))
        rows.append(Pair(label, row["host_value"], row["guest"], sign + text.percent(change)))
    boots = f"{text.count(int(known['guest_boots'].min()), 'boot')} of the guest"
    caption = f"{title}; {boots}, n = {int(known['guest_n'].min()):,} a bar"
    detail = "; ".join(
        f"{r.label}: host {text.quantity(r.host, unit)}, guest {text.quantity(r.guest, unit)}"
        for r in rows
    )
    return [figures.figure(caption, figures.pairs(caption, detail, rows, unit))]
