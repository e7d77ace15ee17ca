"""Runs a timing tool of the guest image (hv-exits or hv-ops) and records its batches.

A run has `batches` batches of `ops` operations. The tool prints the time of each batch in ns
and, except for the timer case, in TSC cycles. The host's cost is measured over the whole run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from harness.errors import WorkloadError
from harness.guest.guest import Guest
from harness.plugin.fixtures import RecordSample
from harness.results.schema import Parameter
from suites.cost import ResourceUsage, UsageMeter

TIMEOUT = 120.0  # seconds
STARTUP_RUNS = 3
CASES_WITHOUT_WARM_UP = ("page_fault", "timer")
_NS_PER_UNIT = {"ns": 1.0, "us": 1e3}


@dataclass(frozen=True)
class ToolRun:
    """One run of a tool.

    batches: "ns" of each batch, and its "cycles" or, for the timer case, its percentiles.
    ops: operations in a batch. operations: operations of the whole run, with the warm-up.
    usage: host cost of the whole run, with the tool's start and end.
    """

    case: str
    batches: list[dict[str, float]]
    ops: int
    operations: int
    usage: ResourceUsage

    @property
    def seconds(self) -> float:
        """Seconds of all batches."""
        return sum(batch["ns"] for batch in self.batches) / 1e9

    @property
    def costs(self) -> list[tuple[float, float]]:
        """(ns, cycles) of each batch."""
        return [(batch["ns"], batch["cycles"]) for batch in self.batches]

    @property
    def exits(self) -> int | None:
        """KVM's count of exits during the run; None without a counter."""
        return self.usage.counters.get("exits")


def total_operations(ops: int, batches: int) -> int:
    """Operations of a run. The warm-up is a tenth of a batch plus one, as in suites/bare."""
    return ops * batches + ops // 10 + 1


def run_tool(guest: Guest, tool: str, case: str, ops: int, batches: int, *options: str) -> ToolRun:
    """Run one case of a tool in the guest.

    Raises WorkloadError if the output is invalid, CommandError if the tool fails.
    """
    argv = [tool, case, "--ops", str(ops), "--batches", str(batches), *options]
    meter = UsageMeter(guest)
    output = guest.ssh.run(argv, timeout=TIMEOUT).stdout
    usage = meter.read()
    try:
        result: dict[str, Any] = json.loads(output)
        rows = [{key: float(value) for key, value in row.items()} for row in result["batches"]]
        if len(rows) != batches or not all(row["ns"] > 0 for row in rows):
            raise ValueError(f"expected {batches} batches with a time above 0")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkloadError(
            f"{tool} {case} printed no valid result: {output[-200:]!r}",
            hint="rebuild the guest image: python -m images build guest",
            stage="run",
            guest=guest.name,
        ) from error
    warm_up = case not in CASES_WITHOUT_WARM_UP
    operations = total_operations(ops, batches) if warm_up else ops * batches
    return ToolRun(case, rows, ops, operations, usage)


def startup_usage(guest: Guest, tool: str, case: str) -> ResourceUsage:
    """Host cost of the tool's start and end: the median of runs with one operation.

    The first run is discarded, because it reads the tool from the disk.
    """
    runs = [run_tool(guest, tool, case, 1, 1).usage.counters for _ in range(1 + STARTUP_RUNS)][1:]
    return ResourceUsage({name: int(median(run[name] for run in runs)) for name in runs[0]})


def record_batches(
    record_sample: RecordSample,
    metric: str,
    run: ToolRun,
    unit: str,
    boot: int,
    parameters: Mapping[str, Parameter] | None = None,
) -> None:
    """Record the time per operation, with one sample per batch. unit: "ns" or "us"."""
    for number, batch in enumerate(run.batches):
        value = batch["ns"] / run.ops / _NS_PER_UNIT[unit]
        record_sample(metric, value, unit, "lower", parameters, boot=boot, batch=number)
