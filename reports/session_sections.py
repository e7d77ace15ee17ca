"""The sections about the session: environment, utilization, outcomes, stages, method."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from harness.results.schema import decode_parameters
from harness.results.statistics import BOOT, GUEST_UTILIZATION
from reports import figures, text
from reports.figures import Figure, StackedSeries
from reports.page import (
    Cell,
    Run,
    Section,
    Table,
    columns,
    count_cell,
    count_tests,
    failed_outcomes,
    figure_cell,
    ordered_outcomes,
    percent_cell,
    target_label,
    text_cell,
)

CPU_PARTS = ("guest", "user", "system", "iowait", "steal")
MAX_POINTS = 300
MAX_GUESTS = 30
GUEST_CPU = ("guest.cpu.user", "guest.cpu.system")
GUEST_PRESSURES = ("guest.pressure.cpu", "guest.pressure.memory", "guest.pressure.io")

NAMES = {
    "host.cpu.guest": "CPU running guests",
    "host.cpu.user": "CPU in user space",
    "host.cpu.system": "CPU in the kernel",
    "host.cpu.iowait": "CPU waiting for I/O",
    "host.cpu.steal": "CPU time given to other machines (steal)",
    "host.cpu.idle": "CPU idle",
    "host.memory.used": "Memory in use",
    "host.memory.total": "Memory installed",
    "host.pressure.cpu": "Time in which a task waited for a CPU (pressure)",
    "host.pressure.memory": "Time in which a task waited for memory (pressure)",
    "host.pressure.io": "Time in which a task waited for I/O (pressure)",
    "host.disk.requests": "Disk requests",
    "host.disk.read": "Read from disks",
    "host.disk.write": "Written to disks",
    "host.power.cpu": "Power of the CPUs (RAPL)",
}


def environment(run: Run) -> Section:
    facts = run.facts
    rows: list[tuple[str, str]] = [
        ("Hypervisor", facts.get("hypervisor", "")),
        ("Backend", facts.get("backend", "")),
        ("Host", ", ".join(filter(None, (facts.get("host", ""), facts.get("hostname", ""))))),
        ("Reason for this host", facts.get("why", "")),
        ("CPU", facts.get("cpu_model", "")),
        ("CPUs", str(facts.get("cpus", ""))),
        ("Memory", text.memory(facts["memory"] / 2**20) if "memory" in facts else ""),
        ("Kernel", facts.get("kernel", "")),
        ("Microcode", facts.get("microcode", "")),
        ("Frequency governor", facts.get("governor", "")),
        ("SMT", facts.get("smt", "")),
        ("Mitigations", _joined(facts.get("mitigations", {}))),
        ("Host fingerprint", facts.get("fingerprint", "")),
        ("Guest image", facts.get("image", "")),
        ("Commit", facts.get("commit", "")),
        ("Versions", _joined(facts.get("versions", {}))),
        ("Command", facts.get("command", "")),
        ("Start", format_time(facts.get("start", ""))),
        ("End", format_time(facts.get("end", ""))),
        ("Run", facts.get("run", "")),
    ]
    cells = [[text_cell(name), text_cell(value or "not known")] for name, value in rows]
    caption = "Facts of the run, which all figures of this page depend on"
    table = Table(caption, columns("Fact", "Value"), cells)
    notes = text.merged(facts.get("notes", []))
    return Section("environment", "Environment", tables=[table], notes=notes)


def _joined(entries: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in sorted(entries.items()))


def utilization(run: Run) -> Section:
    section = Section("host", "Utilization")
    if run.utilization.empty:
        section.placeholder = "This run has no utilization samples of the host."
        return section
    for key, table in run.utilization.groupby("host"):
        host = str(key)
        samples = run.frame[run.frame["host"] == host]
        ticks = host_ticks(samples)
        label = f"host {run.facts.get('host') or host} ({run.facts.get('backend', '')})"
        section.figures += _cpu_figure(ticks, label) + _memory_figure(ticks, label)
        rows = [
            [
                text_cell(NAMES.get(row["metric"], row["metric"])),
                text_cell(row["unit"]),
                *(_value_cell(row[name], row["unit"]) for name in ("mean", "peak", "low")),
                count_cell(row["n"]),
            ]
            for row in table.to_dict("records")
        ]
        head = columns("Quantity", "Unit", "#Mean", "#Peak", "#Lowest", "#n (ticks)")
        caption = f"Utilization during the run: {label}; CPU as a share of all CPUs"
        section.tables.append(Table(caption, head, rows))
    section.tables += _guest_tables(run.frame)
    return section


def host_ticks(frame: pd.DataFrame) -> pd.DataFrame:
    """The host.* samples of one host: a row for each tick by its time, a column for each metric."""
    samples = frame[frame["metric"].str.startswith("host.")]
    # The values of a tick have slightly different times, but the same batch number.
    by_tick = samples.groupby(["run", "batch"], observed=True)
    samples = samples.assign(tick=by_tick["time"].transform("min"))
    ticks = samples.pivot_table(index="tick", columns="metric", values="value", observed=True)
    return ticks.sort_index()


def _guest_tables(frame: pd.DataFrame) -> list[Table]:
    """Host resources that guests used: a table for each hypervisor, a row for each label."""
    samples = frame[frame["metric"].str.match(GUEST_UTILIZATION)]
    return [
        _guest_table(group, target_label(*map(str, key)))
        for key, group in samples.groupby(["hypervisor", "backend"], observed=True)
    ]


def _guest_table(samples: pd.DataFrame, title: str) -> Table:
    # The boot identifies a guest of a label, the batch identifies its tick.
    tick = ["parameters", *BOOT, "batch"]
    ticks = samples.pivot_table(index=tick, columns="metric", values="value", observed=True)
    ticks = ticks.reindex(columns=["guest.memory.used", *GUEST_PRESSURES, *GUEST_CPU])
    ticks["cpu"] = ticks[[*GUEST_CPU]].sum(axis=1, min_count=1)
    by_label = sorted(
        ticks.reset_index().groupby("parameters", observed=True),
        key=lambda one: -float(one[1]["cpu"].sum()),
    )
    shown = by_label[:MAX_GUESTS]
    caption = f"Host resources used by guests: {title}"
    if len(by_label) > len(shown):
        caption += f"; {len(shown)} of {len(by_label):,} guests, by CPU time"
    head = columns(
        *("Guest", "#CPU, median, % of one CPU", "#CPU, peak, %", "#Memory, peak, MiB"),
        *("#Waited for a CPU, % of the time", "#Waited for memory, %", "#Waited for I/O, %"),
        *("#Boots", "#n (ticks)"),
    )
    rows = [
        [
            text_cell(str(decode_parameters(str(parameters)).get("guest", ""))),
            _value_cell(guest_ticks["cpu"].median(), "%"),
            _value_cell(guest_ticks["cpu"].max(), "%"),
            figure_cell(guest_ticks["guest.memory.used"].max()),
            *(_value_cell(guest_ticks[name].mean(), "%") for name in GUEST_PRESSURES),
            count_cell(len(guest_ticks[BOOT].drop_duplicates())),
            count_cell(len(guest_ticks)),
        ]
        for parameters, guest_ticks in shown
    ]
    return Table(caption, head, rows)


def _value_cell(value: float, unit: str) -> Cell:
    """A percentage with one decimal, which is the precision of a tick; others as figures."""
    is_percentage = unit == "%" and math.isfinite(value)
    return Cell(f"{value:.1f}", float(value)) if is_percentage else figure_cell(value)


def _cpu_figure(ticks: pd.DataFrame, label: str) -> list[Figure]:
    parts = {name: f"host.cpu.{name}" for name in CPU_PARTS if f"host.cpu.{name}" in ticks}
    thin = thinned(ticks, list(parts.values()))
    if len(thin) < 2:
        return []
    series = {name: thin[column].tolist() for name, column in parts.items()}
    caption = f"CPU use over the run, % of all CPUs: {label}, n = {len(ticks):,} ticks"
    detail = "Stacked areas over time; means: " + ", ".join(
        f"{name} {text.number(float(ticks[column].mean()), 2)} %" for name, column in parts.items()
    )
    seconds = _seconds(thin)
    draw = figures.areas(caption, detail, StackedSeries(seconds, series, 100.0, "%"))
    return [figures.figure(caption, draw)]


def _memory_figure(ticks: pd.DataFrame, label: str) -> list[Figure]:
    if "host.memory.used" not in ticks:
        return []
    thin = thinned(ticks, ["host.memory.used"])
    if len(thin) < 2:
        return []
    used = (thin["host.memory.used"] / 1024).tolist()
    total = ticks.get("host.memory.total")
    high = float(total.max()) / 1024 if total is not None else max(used)
    caption = f"Memory in use over the run, GiB: {label}, n = {len(ticks):,} ticks"
    detail = f"From {used[0]:.2f} to {used[-1]:.2f} GiB, at most {max(used):.2f} of {high:.2f} GiB"
    series = StackedSeries(_seconds(thin), {"memory in use": used}, high, "GiB")
    return [figures.figure(caption, figures.areas(caption, detail, series))]


def thinned(ticks: pd.DataFrame, columns: list[str], most: int = MAX_POINTS) -> pd.DataFrame:
    """At most `most` rows: the means of neighbouring ticks."""
    measured = ticks[columns].dropna()
    step = -(-len(measured) // most) or 1
    if step == 1:
        return measured
    place = pd.Series(range(len(measured)), index=measured.index) // step
    return measured.groupby(place.to_numpy()).mean().set_index(measured.index[::step])


def _seconds(ticks: pd.DataFrame) -> list[float]:
    times = pd.Series(ticks.index)
    return [float(s) for s in (times - times.iloc[0]).dt.total_seconds()]


def outcomes(run: Run) -> Section:
    section = Section("outcomes", "Outcomes")
    counts = ordered_outcomes(run.facts.get("outcomes", {}))
    if not counts:
        section.placeholder = "The outcomes of the tests are not known."
        return section
    total = count_tests(counts)
    rows = [
        [
            text_cell(name, flagged=bool(count) and name in ("failed", "error")),
            count_cell(count),
            percent_cell(count / total if total and name != "rerun" else float("nan")),
        ]
        for name, count in counts.items()
    ]
    status = run.facts.get("exit_status")
    caption = f"Outcomes of {text.count(total, 'test')}" + (
        f"; exit status {status}" if status is not None else ""
    )
    section.tables.append(Table(caption, columns("Outcome", "#Tests", "#Share"), rows))
    if failures := run.facts.get("failures", {}):
        section.tables.append(_failures_table(failures, sum(failed_outcomes(counts).values())))
    return section


def _failures_table(failures: Mapping[str, str], total: int) -> Table:
    """The tests that failed. total: their number, since a run names only the first ones."""
    caption = "Tests that failed"
    if total > len(failures):
        caption += f": the first {len(failures)} of {total}"
    rows = [[text_cell(name), text_cell(outcome)] for name, outcome in failures.items()]
    return Table(caption, columns("Test", "Outcome"), rows)


def stages(run: Run) -> Section:
    section = Section("stages", "Session stages")
    durations = run.facts.get("stages", {})
    if not durations:
        section.placeholder = "The durations of the stages are not known."
        return section
    total = sum(durations.values())
    rows = [
        [
            text_cell(name),
            Cell(text.time(duration, "s"), float(duration)),
            percent_cell(duration / total if total else 0),
        ]
        for name, duration in durations.items()
    ]
    caption = (
        f"Duration of each stage of the session, {text.time(total, 's')} in total; n = 1 for each"
    )
    section.tables.append(Table(caption, columns("Stage", "#Time", "#Share"), rows))
    return section


def format_time(iso: str) -> str:
    """An ISO time as "2 January 2026, 03:04 UTC"; other text is returned as it is."""
    return text.date(iso, "%B %Y, %H:%M UTC")


METHOD = (
    ("n and boots", "n is the number of samples. Boots is the number of guest starts they come "
     "from. Values of one boot depend on each other, so only boots count as repetitions. Fewer "
     "than six boots are flagged: their interval cannot cover 95 %."),
    ("Median and 95 % interval", "The median is over the boots' medians. The interval is a "
     "bootstrap over boots: 4,000 draws with replacement and a fixed seed. With few boots it "
     "spans nearly all of them. One boot has no interval."),
    ("Min, p99, spread", "These cover all samples. A sample of an exit is the mean of a batch, "
     "so its p99 is over batches, not over single operations. With fewer than 100 samples p99 is "
     "near the largest value. Spread (CV) is the standard deviation divided by the mean."),
    ("Boot", "Seconds from the call that creates the machine to its first instruction (kernel), "
     "its first process (init), its listening SSH server (sshd) and its first reply over SSH "
     "(ready)."),
    ("Exits", "A batch times many operations in a row. Ring 3 is the user mode of a Linux guest: "
     "all cases of a boot run in one guest. Ring 0 is kernel mode without an operating system: "
     "each case runs in its own guest, and one guest of each case counts as a boot. The control "
     "is the same loop without the operation; the control of the same boot is subtracted. Exits "
     "per operation come from KVM's counters, minus those of the loop itself. About 1 confirms "
     "that the intended operation was timed. A row is flagged when exits differ by more than 5 % "
     "or are not counted, when a batch has fewer than 100,000 operations, and when a boot has "
     "fewer than 30 batches."),
    ("Side by side", "Each test runs on every hypervisor in turn, and the order is reversed for "
     "the next test, so that drift affects all alike. Native is no hypervisor: it is a container "
     "of the same image on the host's kernel, with the same number of CPUs."),
    ("I/O overhead", "The same fio job runs on the same backing file, natively and in the guest. "
     "Overhead is 1 − guest/host where higher is better and guest/host − 1 where lower is "
     "better, so above 0 is always worse. Its interval resamples the boots of both sides."),
    ("Utilization", "Shares of all CPUs of the host for each tick of the run, including pauses "
     "between tests. Steal is time that a hypervisor below the host gave to other machines. The "
     "utilization of a guest is that of its cgroup: VMM, helper processes and vCPUs, in shares "
     "of one CPU."),
    ("Backends", "vmx and svm are hardware virtualization by Intel and AMD. pvm and lguest need "
     "none. emulated is a CPU in software. Figures of different backends are never averaged. A "
     "control loop above 3 cycles per instruction marks a run as emulated."),
)  # fmt: skip
