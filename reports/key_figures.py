"""The key figures of a run: short answers to the first questions of a reader."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from harness.results import statistics
from harness.results.figure_names import variants
from harness.results.schema import decode_parameters
from reports import other_metrics, text
from reports.page import (
    KeyFigure,
    Run,
    failed_outcomes,
    interval_name,
    ordered_outcomes,
    target_label,
    workload,
)
from reports.suite_sections import CASES

MOST_OWN = 6


def key_figures(run: Run) -> list[KeyFigure]:
    """One figure for each question that the samples of this run can answer."""
    return [*_boot(run), *_exits(run), *_io(run), *_own(run), *_host(run), *_tests(run)]


def _boot(run: Run) -> list[KeyFigure]:
    answers = []
    table = run.boots
    ready = table[table["metric"] == "boot.ready"]
    for row in ready.assign(variant=variants(ready)).to_dict("records"):
        setting = workload(row)
        sentence = (
            f"from create to the first reply over SSH, {_target(row)}{', ' if setting else ''}"
            f"{setting}: median of {text.count(row['boots'], 'boot')}{_interval(row, 's')}"
        )
        label = _label(run, "Boot to ready", row)
        answers.append(KeyFigure(label, text.time(row["median"], "s"), sentence))
    return answers


def _label(run: Run, label: str, row: dict[Hashable, Any]) -> str:
    """The label, with the hypervisor's name when the run has several."""
    has_several = "," in run.facts.get("hypervisor", "")
    return f"{label}, {row['hypervisor']}" if has_several else label


def _target(row: dict[Hashable, Any]) -> str:
    return target_label(row["hypervisor"], row["backend"])


def _interval(row: dict[Hashable, Any], unit: str) -> str:
    interval = text.time_interval(row["low"], row["high"], unit)
    if interval == text.NONE:
        return ", too few for an interval"
    return f", {interval_name(row['boots'])} {interval}"


def _exits(run: Run) -> list[KeyFigure]:
    if run.costs.empty:
        return []
    answers = []
    table = run.costs[(run.costs["kind"] == "ns") & (run.costs["median"] > 0)]
    for _, group in table.groupby(statistics.TARGET, dropna=False):
        rows = group.sort_values("median").to_dict("records")
        ends = [("Cheapest exit", rows[0])]
        if len(rows) > 1:
            ends.append(("Costliest exit", rows[-1]))
        for label, row in ends:
            meaning = f" ({CASES[row['case']]})" if row["case"] in CASES else ""
            sentence = (
                f"{row['case']}{meaning}, {_target(row)}, control subtracted: "
                f"median of {text.count(row['boots'], 'boot')}, n = {row['n']:,}"
                f"{_interval(row, 'ns')}{''.join(f'; {flag}' for flag in row['flags'])}"
            )
            name = _label(run, label, row) + _ring(row)
            answers.append(KeyFigure(name, text.time(row["median"], "ns"), sentence))
    return answers


def _ring(row: dict[Hashable, Any]) -> str:
    ring = decode_parameters(row["parameters"]).get("ring")
    return "" if ring is None else f", ring {ring}"


def _io(run: Run) -> list[KeyFigure]:
    answers = []
    table = run.overheads.dropna(subset=["overhead"])
    table = table.assign(variant=variants(table))
    metrics = (
        ("I/O throughput lost", "io.iops", "fewer operations per second"),
        ("I/O latency added", "io.clat.p99", "longer latency (99th percentile)"),
        ("Network stream lost", "net.stream.to_guest", "less throughput of one TCP stream"),
    )
    for label, metric, meaning in metrics:
        samples = table[table["metric"] == metric]
        for _, group in samples.groupby(["hypervisor", "backend"]):
            rows = group.sort_values("overhead").to_dict("records")
            worst, best = rows[-1], rows[0]
            case = " in the worst case" if len(rows) > 1 else ""
            sentence = f"{meaning} in the guest than on its host{case}, {_target(worst)}"
            if setting := workload(worst):
                sentence += f": {setting}"
            if len(rows) > 1:
                sentence += f"; in the best case {text.percent(best['overhead'])}: {workload(best)}"
            sentence += f"; {text.count(worst['guest_boots'], 'boot')}"
            name = _label(run, label, worst)
            answers.append(KeyFigure(name, text.percent(worst["overhead"]), sentence))
    return answers


def _own(run: Run) -> list[KeyFigure]:
    """The first metrics that are the suite's own: those of no suite of this project."""
    table = other_metrics.own_metrics(run.frame)
    answers = []
    for row in table.head(MOST_OWN).to_dict("records"):
        setting, unit = workload(row), text.unit(row["unit"])
        sentence = (
            f"{setting}{', ' if setting else ''}{_target(row)}: median of "
            f"{text.count(row['boots'], 'boot')}, n = {row['n']:,}"
        )
        if (interval := text.interval(row["low"], row["high"])) != text.NONE:
            sentence += f", {interval_name(row['boots'])} {interval} {unit}"
        value = text.quantity(row["median"], unit)
        answers.append(KeyFigure(_label(run, row["metric"], row), value, sentence))
    return answers


def _host(run: Run) -> list[KeyFigure]:
    answers = []
    for host, table in run.utilization.groupby("host"):
        by_metric = table.set_index("metric")
        if "host.cpu.idle" not in by_metric.index:
            continue
        cpu = by_metric.loc["host.cpu.idle"].to_dict()
        idle, lowest, ticks = cpu["mean"], cpu["low"], cpu["n"]
        sentence = f"on average, {100 - lowest:.0f} % at the peak; {idle:.0f} % idle"
        cpus = run.facts.get("cpus", 0)
        if cpus:
            sentence += f" ({text.number(idle / 100 * cpus, 2)} of {cpus} CPUs)"
        if "host.memory.used" in by_metric.index:
            peak = by_metric["peak"]["host.memory.used"]
            sentence += f"; memory at most {text.memory(peak)}"
            if "host.memory.total" in by_metric.index:
                total = by_metric["peak"]["host.memory.total"]
                sentence += f" of {text.memory(total)}"
        sentence += f"; {run.facts.get('host') or str(host)}, {ticks:,} ticks"
        answers.append(KeyFigure("Host busy", f"{100 - idle:.0f} %", sentence))
    return answers


def _tests(run: Run) -> list[KeyFigure]:
    counts = run.facts.get("outcomes", {})
    if not counts:
        return []
    failed = failed_outcomes(counts)
    value = f"{sum(failed.values())} failed" if failed else f"{counts.get('passed', 0)} passed"
    sentence = ", ".join(f"{n} {name}" for name, n in ordered_outcomes(counts).items())
    if set(counts) == {"passed"}:
        sentence = "none failed, none skipped"
    return [KeyFigure("Tests", value, sentence, measured=False)]
