"""Sections of the session itself: environment, host utilization, outcomes, stages, method."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from harness.results.schema import decode
from harness.results.statistics import BOOT, GUEST_UTILIZATION
from reports import figures, text
from reports.figures import Figure, Series
from reports.page import (
    Cell,
    Run,
    Section,
    Table,
    figure_cell,
    numbered,
    ordered,
    share,
    where,
    whole,
    words,
)

CPU_PARTS = ("guest", "user", "system", "iowait", "steal")
MOST_POINTS = 300
MOST_GUESTS = 30
GUEST_CPU = ("guest.cpu.user", "guest.cpu.system")
GUEST_PRESSURES = ("guest.pressure.cpu", "guest.pressure.memory", "guest.pressure.io")

NAMES = {
    "host.cpu.guest": "CPU running guests",
    "host.cpu.user": "CPU in user space",
    "host.cpu.system": "CPU in the kernel",
    "host.cpu.iowait": "CPU waiting for I/O",
    "host.cpu.steal": "CPU taken by another machine (steal)",
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
        ("Why this host", facts.get("why", "")),
        ("CPU", facts.get("cpu_model", "")),
        ("CPUs", str(facts.get("cpus", ""))),
        ("Memory", text.memory(facts["memory"] / 2**20) if "memory" in facts else ""),
        ("Kernel", facts.get("kernel", "")),
        ("Microcode", facts.get("microcode", "")),
        ("Frequency governor", facts.get("governor", "")),
        ("SMT", facts.get("smt", "")),
        ("Mitigations", _listed(facts.get("mitigations", {}))),
        ("Host fingerprint", facts.get("fingerprint", "")),
        ("Guest image", facts.get("image", "")),
        ("Commit", facts.get("commit", "")),
        ("Versions", _listed(facts.get("versions", {}))),
        ("Command", facts.get("command", "")),
        ("Began", when(facts.get("start", ""))),
        ("Ended", when(facts.get("end", ""))),
        ("Run", facts.get("run", "")),
    ]
    cells = [[words(name), words(value or "not known")] for name, value in rows]
    caption = "What ran where: the facts every figure of this page depends on"
    table = Table(caption, numbered("Fact", "Value"), cells)
    return Section("environment", "Environment", tables=[table], notes=facts.get("notes", []))


def _listed(entries: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in sorted(entries.items()))


def utilization(run: Run) -> Section:
    section = Section("host", "Utilization of host and guests")
    if run.utilization.empty:
        section.missing = "No utilization samples of the host in this run."
        return section
    for key, table in run.utilization.groupby("host"):
        host = str(key)
        mine = run.frame[(run.frame["host"] == host) & run.frame["metric"].str.startswith("host.")]
        # values of one tick are stamped one after the other; the batch number joins them
        mine = mine.assign(tick=mine.groupby(["run", "batch"])["time"].transform("min"))
        ticks = mine.pivot_table(index="tick", columns="metric", values="value").sort_index()
        label = f"host {run.facts.get('host') or host} ({run.facts.get('backend', '')})"
        section.figures += _cpu_figure(ticks, label) + _memory_figure(ticks, label)
        rows = [
            [
                words(NAMES.get(row["metric"], row["metric"])),
                words(row["unit"]),
                *(_steady(row[name], row["unit"]) for name in ("mean", "peak", "low")),
                whole(row["n"]),
            ]
            for row in table.to_dict("records")
        ]
        head = numbered("What", "Unit", "#Mean", "#Peak", "#Lowest", "#n (ticks)")
        caption = f"Utilization during the run: {label}; CPU as a share of all CPUs"
        section.tables.append(Table(caption, head, rows))
    section.tables += _guest_tables(run.frame)
    return section


def _guest_tables(frame: pd.DataFrame) -> list[Table]:
    """What the guests of each hypervisor took of the host; those of one label together."""
    mine = frame[frame["metric"].str.match(GUEST_UTILIZATION)]
    return [
        _guest_table(group, where(*map(str, key)))
        for key, group in mine.groupby(["hypervisor", "backend"], observed=True)
    ]


def _guest_table(samples: pd.DataFrame, title: str) -> Table:
    # a label's guests are told apart by their boots, their ticks by the batches
    tick = ["parameters", *BOOT, "batch"]
    ticks = samples.pivot_table(index=tick, columns="metric", values="value", observed=True)
    ticks = ticks.reindex(columns=["guest.memory.used", *GUEST_PRESSURES, *GUEST_CPU])
    ticks["cpu"] = ticks[[*GUEST_CPU]].sum(axis=1, min_count=1)
    by_label = sorted(
        ticks.reset_index().groupby("parameters", observed=True),
        key=lambda one: -float(one[1]["cpu"].sum()),
    )
    shown = by_label[:MOST_GUESTS]
    caption = f"What guests took of the host: {title}"
    if len(by_label) > len(shown):
        caption += f"; the {len(shown)} that took the most CPU time of {len(by_label):,}"
    head = numbered(
        *("Guest", "#CPU, median, % of one", "#CPU, peak, %", "#Memory, peak, MiB"),
        *("#Waited for a CPU, % of the time", "#For memory, %", "#For I/O, %"),
        *("#Boots", "#n (ticks)"),
    )
    rows = [
        [
            words(str(decode(str(parameters)).get("guest", ""))),
            _steady(mine["cpu"].median(), "%"),
            _steady(mine["cpu"].max(), "%"),
            figure_cell(mine["guest.memory.used"].max()),
            *(_steady(mine[name].mean(), "%") for name in GUEST_PRESSURES),
            whole(len(mine[BOOT].drop_duplicates())),
            whole(len(mine)),
        ]
        for parameters, mine in shown
    ]
    return Table(caption, head, rows)


def _steady(value: float, unit: str) -> Cell:
    """Shares with one decimal: more would be the noise of a tick."""
    steady = unit == "%" and math.isfinite(value)
    return Cell(f"{value:.1f}", float(value)) if steady else figure_cell(value)


def _cpu_figure(ticks: pd.DataFrame, label: str) -> list[Figure]:
    parts = {name: f"host.cpu.{name}" for name in CPU_PARTS if f"host.cpu.{name}" in ticks}
    thin = _thinned(ticks, list(parts.values()))
    if len(thin) < 2:
        return []
    series = {name: thin[column].tolist() for name, column in parts.items()}
    caption = f"CPU use over the run, % of all CPUs: {label}, n = {len(ticks):,} ticks"
    detail = "Stacked areas over time; means: " + ", ".join(
        f"{name} {text.number(float(ticks[column].mean()), 2)} %" for name, column in parts.items()
    )
    seconds = _seconds(thin)
    draw = figures.areas(caption, detail, Series(seconds, series, 100.0, "%"))
    return [figures.figure(caption, draw)]


def _memory_figure(ticks: pd.DataFrame, label: str) -> list[Figure]:
    if "host.memory.used" not in ticks:
        return []
    thin = _thinned(ticks, ["host.memory.used"])
    if len(thin) < 2:
        return []
    used = (thin["host.memory.used"] / 1024).tolist()
    total = ticks.get("host.memory.total")
    high = float(total.max()) / 1024 if total is not None else max(used)
    caption = f"Memory in use over the run, GiB: {label}, n = {len(ticks):,} ticks"
    detail = f"From {used[0]:.2f} to {used[-1]:.2f} GiB, at most {max(used):.2f} of {high:.2f} GiB"
    series = Series(_seconds(thin), {"memory in use": used}, high, "GiB")
    return [figures.figure(caption, figures.areas(caption, detail, series))]


def _thinned(ticks: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """At most MOST_POINTS rows: means of neighbours, so that the page stays small."""
    known = ticks[columns].dropna()
    step = -(-len(known) // MOST_POINTS) or 1
    if step == 1:
        return known
    place = pd.Series(range(len(known)), index=known.index) // step
    return known.groupby(place.to_numpy()).mean().set_index(known.index[::step])


def _seconds(ticks: pd.DataFrame) -> list[float]:
    times = pd.Series(ticks.index)
    return [float(s) for s in (times - times.iloc[0]).dt.total_seconds()]


def outcomes(run: Run) -> Section:
    section = Section("outcomes", "Outcomes")
    counts = ordered(run.facts.get("outcomes", {}))
    if not counts:
        section.missing = "The run does not say how its tests ended."
        return section
    total = sum(counts.values())
    rows = [
        [
            words(name, flagged=bool(count) and name in ("failed", "error")),
            whole(count),
            share(count / total if total else float("nan")),
        ]
        for name, count in counts.items()
    ]
    status = run.facts.get("exit_status")
    caption = f"How {text.count(total, 'test')} ended" + (
        f"; exit status {status}" if status is not None else ""
    )
    section.tables.append(Table(caption, numbered("Outcome", "#Tests", "#Share"), rows))
    return section


def stages(run: Run) -> Section:
    section = Section("stages", "Session stages")
    known = run.facts.get("stages", {})
    if not known:
        section.missing = "The run does not say how long its stages took."
        return section
    total = sum(known.values())
    rows = [
        [
            words(name),
            Cell(text.time(spent, "s"), float(spent)),
            share(spent / total if total else 0),
        ]
        for name, spent in known.items()
    ]
    caption = f"How long each stage of the session took, {text.time(total, 's')} in all; n = 1 each"
    section.tables.append(Table(caption, numbered("Stage", "#Time", "#Share"), rows))
    return section


def when(iso: str) -> str:
    """ "2 January 2026, 03:04 UTC"; the text itself when it is no time."""
    return text.date(iso, "%B %Y, %H:%M UTC")


METHOD = (
    ("n and boots", "n counts samples; boots counts how many fresh starts of the guest they come "
     "from. Values of one boot depend on one another, so only boots count as repetition. Fewer "
     "than six are flagged: an interval over them cannot cover 95 %."),
    ("Median and 95 % interval", "The median of the boots' medians. The interval is a bootstrap "
     "over boots, never over repetitions inside one boot: boots are drawn again with replacement, "
     "4,000 times, with a fixed seed. With few boots it can do little more than span them; with "
     "one boot there is none."),
    ("Min, p99, spread", "Over all samples; of exits a sample is the mean of a batch, so p99 is of "
     "batches, not of single operations. With fewer than 100 samples p99 lies near the largest. "
     "Spread (CV) is the standard deviation over the mean."),
    ("Boot", "Seconds from the call that creates the machine until its first instruction (kernel), "
     "its first process (init), its SSH server listening (sshd) and the first answer over SSH "
     "(ready)."),
    ("Exits", "A batch times many operations in a row. Ring 3 is the user mode of a Linux guest: "
     "all cases of a boot run in one guest. Ring 0 is kernel mode with no operating system: each "
     "case is a guest of its own, and one of each makes a boot. The same loop without the "
     "operation, the control, is a case like the others; that of the same boot is subtracted. "
     "Exits an operation come from KVM's own counters, less those that come without any operation: "
     "about 1 says that what was timed is what was meant. A row is flagged when they are more than "
     "5 % off or not counted, and when a batch was fewer than 100,000 operations or a boot fewer "
     "than 30 batches."),
    ("Side by side", "Every test ran on each hypervisor in turn, one after the other and then the "
     "other way round, so that what drifts with time hits all alike. Native is no hypervisor: a "
     "container of the same image, with the same number of CPUs, on the host's own kernel."),
    ("I/O overhead", "The same fio job on the same backing file, natively and in the guest. "
     "Overhead is 1 − guest/host where more is better and guest/host − 1 where less is, so above "
     "0 always means worse than the host. Its interval draws the boots of both sides."),
    ("Utilization", "Shares of all CPUs of the host, tick by tick, while the run lasted, pauses "
     "between tests included. Steal is time that a hypervisor below the host gave to others. Of a "
     "guest it is what its cgroup took: the VMM and its helpers, vCPUs included, in shares of one "
     "CPU."),
    ("Backends", "vmx and svm are hardware virtualization by Intel and AMD, pvm and lguest do "
     "without, emulated is a CPU in software. Figures of different backends are never averaged. A "
     "control loop above 3 cycles an instruction marks a run as emulated."),
)  # fmt: skip
