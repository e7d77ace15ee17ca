"""The sections of measurements in guests: boot, exits, I/O."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from harness.results import statistics
from harness.results.figure_names import labels_of_tests, variants
from harness.results.schema import decode_parameters
from reports import figures, text
from reports.figures import Bar, Dot, Figure, Pair
from reports.page import (
    STAGES,
    Run,
    Section,
    Table,
    columns,
    count_cell,
    figure_cell,
    fixed_cell,
    interval_cell,
    interval_heading,
    interval_name,
    name_cell,
    names_as_text,
    percent_cell,
    target_label,
    text_cell,
    workload,
)

MAX_BARS = 12
TARGET_AND_TEST = [*statistics.TARGET, *statistics.TEST]
BOOT_KEY = [*TARGET_AND_TEST, "parameters"]

CASES = {
    "control": "the empty loop, which is subtracted from the others",
    "hypercall_null": "a hypercall that KVM answers",
    "cpuid": "the instruction CPUID, which KVM answers",
    "msr_read": "a read of a model-specific register, which KVM answers",
    "pio_kernel": "an I/O port, which KVM serves if its interrupt controller is enabled",
    "pio_user": "an I/O port, which the VMM serves in user space",
    "mmio_user": "an MMIO address, which the VMM serves in user space",
    "mmio_eventfd": "an MMIO address, whose writes KVM signals to an eventfd",
}
IO_NAMES = {
    "io.iops": "operations per second",
    "io.clat.p50": "latency, median",
    "io.clat.p99": "latency, 99th percentile",
    "io.clat.p99.9": "latency, 99.9th percentile",
    "io.cpu": "CPU time of the host per operation",
    "io.exits": "exits per operation",
    "io.user_exits": "exits to the VMM per operation",
}


def sections(run: Run) -> list[Section]:
    """The sections for which the run has samples."""
    made = (boot_section(run), exits_section(run), io_section(run))
    return [section for section in made if section is not None]


def boot_section(run: Run) -> Section | None:
    if run.boots.empty:
        return None
    section = Section("boot", "Boot")
    labels = _labels(run.boots)
    for key, group in run.boots.groupby(BOOT_KEY, dropna=False):
        target = {name: str(value) for name, value in zip(BOOT_KEY, key, strict=True)}
        setting = text.setting(decode_parameters(target["parameters"]))
        label = target_label(target["hypervisor"], target["backend"])
        test = labels[target["suite"], target["test"]]
        title = ", ".join(filter(None, (label, test, setting)))
        table = group.assign(stage=group["metric"].str.removeprefix("boot."))
        table = table.sort_values("stage", key=lambda names: names.map(_stage_order))
        durations = _stage_durations(run.frame, target)
        if len(durations):
            section.figures.append(_boot_figure(durations, title))
        rows = [
            [
                name_cell(row["stage"], row["flags"]),
                figure_cell(row["median"]),
                interval_cell(row["low"], row["high"]),
                figure_cell(row["min"]),
                figure_cell(row["p99"]),
                percent_cell(row["cv"]),
                figure_cell(
                    durations[row["stage"]].median() if row["stage"] in durations else float("nan")
                ),
                count_cell(row["n"]),
                count_cell(row["boots"]),
            ]
            for row in table.to_dict("records")
        ]
        interval = interval_heading(table["boots"])
        head = columns(
            *("Reached", "#Median, s", f"#{interval}, s", "#Min, s", "#p99, s", "#Spread (CV)"),
            *("#This stage, s", "#n", "#Boots"),
        )
        caption = f"Time from create until each stage is reached: {title}"
        section.tables.append(Table(caption, head, rows))
    return section


def _labels(table: pd.DataFrame) -> dict[tuple[str, str], str]:
    """The label of each test of a table."""
    return labels_of_tests(zip(table["suite"], table["test"], strict=True))


def _stage_order(name: str) -> int:
    return STAGES.index(name) if name in STAGES else len(STAGES)


def _stage_durations(frame: pd.DataFrame, target: dict[str, str]) -> pd.DataFrame:
    """Seconds in each stage: one row for each boot, columns in the order of the stages."""
    stages = frame[frame["metric"].isin([f"boot.{stage}" for stage in STAGES])]
    for name in BOOT_KEY:
        stages = stages[stages[name] == target[name]]
    reached = stages.pivot_table(index=statistics.BOOT, columns="metric", values="value")
    reached = reached[[f"boot.{s}" for s in STAGES if f"boot.{s}" in reached]].dropna()
    durations = reached.diff(axis=1)
    if not reached.empty:
        durations.iloc[:, 0] = reached.iloc[:, 0]
    return durations.rename(columns=lambda name: str(name).removeprefix("boot."))


def _boot_figure(durations: pd.DataFrame, title: str) -> Figure:
    shown = durations.head(MAX_BARS)
    bars = [
        Bar(f"boot {i + 1}", {str(k): max(float(v), 0.0) for k, v in row.items()})
        for i, row in enumerate(shown.to_dict("records"))
    ]
    caption = (
        f"Boot timeline, {title}: {text.count(len(durations), 'boot')}, n = 1 per boot and stage"
    )
    if len(durations) > len(shown):
        caption += f"; the first {len(shown)} are shown"
    detail = "Stacked bars, one for each boot: seconds until " + ", ".join(
        map(str, durations.columns)
    )
    return figures.figure(caption, figures.stacked(caption, detail, bars, "s"))


def exits_section(run: Run) -> Section | None:
    section = Section("exits", "Hypercalls and exits")
    costs = run.costs[run.costs["kind"] == "ns"] if len(run.costs) else run.costs
    if costs.empty:
        if not run.frame["metric"].str.startswith("exit.").any():
            return None
        section.placeholder = "This run has no exit costs with a control loop."
        return section
    control = _control(run, "exit.control")
    cycles = pd.concat(
        [run.costs[run.costs["kind"] == "cycles"], _control(run, "exit.control.cycles")]
    )
    section.lead += _control_sentences(run)
    labels = _labels(costs)
    for key, table in costs.groupby(TARGET_AND_TEST, dropna=False):
        target = dict(zip(TARGET_AND_TEST, map(str, key), strict=True))
        title = target_label(target["hypervisor"], target["backend"])
        rings = {
            decode_parameters(parameters).get("ring") for parameters in table["parameters"]
        } - {None}
        title += "".join(f", ring {ring}" for ring in sorted(map(str, rings)))
        if test := labels[target["suite"], target["test"]]:
            title += f", {test}"
        everything: pd.DataFrame = pd.concat(
            [_controls_of(control, target), table], ignore_index=True
        )
        cells = [_exit_row(cycles, row) for row in everything.to_dict("records")]
        interval = interval_heading(everything["boots"])
        head = columns(
            *("Case", "#Cost, ns", f"#{interval}, ns", "#Min, ns", "#p99, ns"),
            *("#Spread (CV)", "#TSC cycles", "#Exits per operation", "#n", "#Boots"),
        )
        caption = f"Cost of one operation, control subtracted: {title}"
        section.tables.append(Table(caption, head, cells))
        section.figures += _exit_figure(table, title)
    return section


def _matches(table: pd.DataFrame, target: Mapping[str, str]) -> pd.Series:
    return pd.Series((table[list(target)] == pd.Series(target)).all(axis=1))


def _controls_of(control: pd.DataFrame, target: Mapping[str, str]) -> pd.DataFrame:
    """The controls that were subtracted: the test's own, else those of its suite."""
    own = control[_matches(control, target)]
    of_suite = {name: value for name, value in target.items() if name != "test"}
    return own if len(own) else control[_matches(control, of_suite)]


def _control_sentences(run: Run) -> list[str]:
    sentences = []
    for row in statistics.control_cycles(run.frame).to_dict("records"):
        verdict = "more than any real CPU: these costs do not apply to hardware"
        if not row["emulated"] and run.emulated:
            verdict = (
                "like a real CPU, but the CPU is emulated: these costs do not apply to hardware"
            )
        elif not row["emulated"]:
            verdict = "like a real CPU"
        cost = f"{text.number(row['cycles'])} TSC cycles per instruction"
        sentences.append(
            f"On {target_label(row['hypervisor'], row['backend'])} the empty loop takes {cost}, "
            f"{verdict}."
        )
    return list(dict.fromkeys(sentences))


def _control(run: Run, metric: str) -> pd.DataFrame:
    """The figures of the empty loop."""
    table = statistics.summarise(run.frame[run.frame["metric"] == metric])
    return statistics.add_exit_counts(names_as_text(table).assign(case="control"), run.frame)


def _exit_row(cycles: pd.DataFrame, row: dict[Hashable, Any]) -> list[Any]:
    parameters = decode_parameters(row["parameters"])
    setting = text.setting({k: v for k, v in parameters.items() if k not in statistics.WORK})
    meaning = "; ".join(part for part in (CASES.get(row["case"], ""), setting) if part)
    return [
        name_cell(row["case"], row["flags"], meaning),
        figure_cell(row["median"]),
        interval_cell(row["low"], row["high"]),
        figure_cell(row["min"]),
        figure_cell(row["p99"]),
        percent_cell(row["cv"]),
        figure_cell(_row_of_case(cycles, row).get("median", float("nan"))),
        fixed_cell(row["exits"]),
        count_cell(row["n"]),
        count_cell(row["boots"]),
    ]


def _row_of_case(table: pd.DataFrame, row: dict[Hashable, Any]) -> dict[Hashable, Any]:
    """The row of `table` with the same case and setting, or the only row of the case."""
    target = {name: row[name] for name in (*TARGET_AND_TEST, "case")}
    same_case = table[_matches(table, target)] if len(table) else table
    exact = same_case
    if len(same_case):
        exact = same_case[same_case["parameters"] == row["parameters"]]
    rows = exact if len(exact) == 1 else same_case
    return rows.to_dict("records")[0] if len(rows) == 1 else {}


def _exit_figure(table: pd.DataFrame, title: str) -> list[Figure]:
    dots = [
        Dot(
            row["case"],
            row["median"],
            (row["low"], row["high"]) if row["low"] > 0 else None,
            f"{row['case']}: {text.number(row['median'])} ns, {interval_name(row['boots'])} "
            f"{text.interval(row['low'], row['high'])}, {text.count(row['boots'], 'boot')}",
        )
        for row in table.sort_values("median").to_dict("records")
        if row["median"] > 0
    ]
    if not dots:
        return []
    boots, n = int(table["boots"].min()), int(table["n"].min())
    caption = (
        f"Cost of one operation on {title}, logarithmic axis: median and "
        f"{interval_name(boots)}; "
        f"{text.count(boots, 'boot')}, n = {n:,} for each case"
    )
    detail = "; ".join(dot.tooltip for dot in dots)
    return [figures.figure(caption, figures.intervals(caption, detail, dots, "ns"))]


def io_section(run: Run) -> Section | None:
    section = Section("io", "I/O overhead")
    table = run.overheads[run.overheads["metric"].str.startswith("io.")]
    if table.empty:
        if not run.frame["metric"].str.startswith("io.").any():
            return None
        section.placeholder = "This run has I/O samples of the host only."
        return section
    for metric, name in (("io.iops", "Operations per second"), ("io.clat.p99", "Latency, p99")):
        for key, group in table[table["metric"] == metric].groupby(["hypervisor", "backend"]):
            section.figures += _io_figure(
                group, f"{name}: {target_label(*map(str, key))} and its host"
            )
    section.tables += [
        _io_table(group, target_label(*map(str, key)))
        for key, group in table.groupby(["hypervisor", "backend"])
    ]
    return section


def _io_table(table: pd.DataFrame, title: str) -> Table:
    order = {name: i for i, name in enumerate(IO_NAMES)}
    table = table.assign(variant=variants(table))
    table = table.sort_values(
        "metric", key=lambda names: names.map(lambda n: order.get(n, len(order))), kind="stable"
    )
    rows = [
        [
            name_cell(IO_NAMES.get(row["metric"], row["metric"]), row["flags"]),
            text_cell(workload(row)),
            text_cell(text.unit(row["unit"])),
            figure_cell(row["host_value"]),
            figure_cell(row["guest"]),
            percent_cell(row["overhead"]),
            interval_cell(row["low"] * 100, row["high"] * 100),
            text_cell(f"{row['host_n']}, {row['guest_n']}"),
            text_cell(f"{row['host_boots']}, {row['guest_boots']}"),
        ]
        for row in table.to_dict("records")
    ]
    boots = table[["host_boots", "guest_boots"]].min(axis=1)
    interval = interval_heading(boots[table["low"].notna()])
    head = columns(
        *("Figure", "Workload", "Unit", "#Host", "#Guest", "#Overhead", f"#{interval}, %"),
        *("n host, guest", "Boots host, guest"),
    )
    caption = f"I/O in the guest and on its host, {title}; overhead above 0 is worse"
    return Table(caption, head, rows)


def _io_figure(group: pd.DataFrame, title: str) -> list[Figure]:
    measured = group.dropna(subset=["overhead"])
    measured = measured.assign(variant=variants(measured))
    if measured.empty:
        return []
    unit = str(measured["unit"].iloc[0])
    rows = []
    for row in measured.to_dict("records"):
        change = row["guest"] / row["host_value"] - 1
        sign = "+" if change >= 0 else ""
        label = workload(row)
        rows.append(Pair(label, row["host_value"], row["guest"], sign + text.percent(change)))
    boots = f"{text.count(int(measured['guest_boots'].min()), 'boot')} of the guest"
    caption = f"{title}; {boots}, n = {int(measured['guest_n'].min()):,} for each bar"
    detail = "; ".join(
        f"{r.label}: host {text.quantity(r.host, unit)}, guest {text.quantity(r.guest, unit)}"
        for r in rows
    )
    return [figures.figure(caption, figures.pairs(caption, detail, rows, unit))]
