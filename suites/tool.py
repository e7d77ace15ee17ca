"""Our timing tools in the guest (hv-exits, hv-ops): a command line in, batches and cost out."""

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
from suites.cost import Cost, Spent

TIMEOUT = 120.0
STARTS = 3
NO_WARM_UP = ("fault", "timer")
_NS = {"ns": 1.0, "us": 1e3}


@dataclass(frozen=True)
class Timed:
    """A tool's run. batches: what each took, "ns" and mostly "cycles". ops: operations in each.
    operations: all, those before the first batch included. spent: what the tool cost, from start
    to end."""

    case: str
    batches: list[dict[str, float]]
    ops: int
    operations: int
    spent: Spent

    @property
    def seconds(self) -> float:
        return sum(batch["ns"] for batch in self.batches) / 1e9

    @property
    def costs(self) -> list[tuple[float, float]]:
        """ns and cycles of each batch."""
        return [(batch["ns"], batch["cycles"]) for batch in self.batches]

    @property
    def exits(self) -> int | None:
        """KVM's count meanwhile; None where nothing counts."""
        return self.spent.counters.get("exits")


def operations(ops: int, batches: int) -> int:
    """All that the tools do, as suites/bare: a tenth of a batch, and one, before the first."""
    return ops * batches + ops // 10 + 1


def time(guest: Guest, tool: str, case: str, ops: int, batches: int, *options: str) -> Timed:
    """Raises WorkloadError when the tool's output cannot be used, CommandError when it fails."""
    argv = [tool, case, "--ops", str(ops), "--batches", str(batches), *options]
    cost = Cost(guest)
    text = guest.ssh.run(argv, timeout=TIMEOUT).stdout
    spent = cost.spent()
    try:
        result: dict[str, Any] = json.loads(text)
        found = [{key: float(value) for key, value in one.items()} for one in result["batches"]]
        if len(found) != batches or not all(batch["ns"] > 0 for batch in found):
            raise ValueError("batches are missing")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkloadError(
            f"{tool} {case} printed no result: {text[-200:]!r}",
            hint="build the guest image again: python -m images build guest",
            stage="run",
            guest=guest.name,
        ) from error
    total = ops * batches if case in NO_WARM_UP else operations(ops, batches)
    return Timed(case, found, ops, total, spent)


def start(guest: Guest, tool: str, case: str) -> Spent:
    """What the tool costs with one operation: the median of each counter. The first run is not
    counted, as it reads the tool from the disk."""
    runs = [time(guest, tool, case, 1, 1).spent.counters for _ in range(1 + STARTS)][1:]
    return Spent({name: int(median(run[name] for run in runs)) for name in runs[0]})


def record(
    keep: RecordSample,
    metric: str,
    timed: Timed,
    unit: str,
    boot: int,
    parameters: Mapping[str, Parameter] | None = None,
) -> None:
    """Keep what an operation took in each batch. unit: ns or us."""
    for number, batch in enumerate(timed.batches):
        value = batch["ns"] / timed.ops / _NS[unit]
        keep(metric, value, unit, "lower", parameters, boot=boot, batch=number)
