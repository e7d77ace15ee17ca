"""Shared by the exit suites of ring 0 and ring 3: cases, and the samples of a boot.

Measured: the time of one loop iteration, in ns and TSC cycles, with one sample per batch; and exits
per operation, by KVM's count without the background. Control: the loop with an empty body, which
reports subtract. A boot is one cluster of samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import pytest

from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from harness.results.schema import Parameter
from suites.cost import BackgroundExits

BOOTS = pytest.mark.boots(short=5, full=12)
BATCHES = 30
# of one iteration of the control loop: three loads of registers, dec, jnz
INSTRUCTIONS = 5


@dataclass(frozen=True)
class ExitCase:
    """One operation to measure.

    name: the case's name in the program. ops: operations in a batch. emulated_ops: the same on an
    emulated host, whose exits are slow.
    """

    name: str
    emulated_ops: int
    ops: int = 100_000

    def ops_on(self, host: Host) -> int:
        return self.emulated_ops if host.emulated else self.ops


class ExitRun(Protocol):
    """One run of a case.

    costs: (ns, cycles) of each batch. ops: operations in a batch. operations: operations of the
    whole run, with the warm-up. exits: KVM's count during the run; None without a counter.
    """

    @property
    def case(self) -> str: ...
    @property
    def ops(self) -> int: ...
    @property
    def costs(self) -> Sequence[tuple[float, float]]: ...
    @property
    def seconds(self) -> float: ...
    @property
    def operations(self) -> int: ...
    @property
    def exits(self) -> int | None: ...


def record(
    record_sample: RecordSample,
    short_control: ExitRun,
    runs: Iterable[ExitRun],
    *,
    ring: int,
    boot: int,
) -> None:
    """Record the samples of one boot, and check that each case causes exits.

    short_control: a control run with few operations. runs: a long control run, then the cases.
    """
    background = None
    exits_per_op: dict[str, float] = {}
    for run in runs:
        parameters: dict[str, Parameter] = {
            "ops": run.ops,
            "instructions": INSTRUCTIONS,
            "ring": ring,
        }
        for number, costs in enumerate(run.costs):
            metrics = ((f"exit.{run.case}", "ns"), (f"exit.{run.case}.cycles", "cycles"))
            for (metric, unit), cost in zip(metrics, costs, strict=True):
                value = cost / run.ops
                record_sample(metric, value, unit, "lower", parameters, boot=boot, batch=number)
        if short_control.exits is None or run.exits is None:
            continue
        if background is None:
            background = BackgroundExits.from_controls(
                (short_control.exits, short_control.seconds), (run.exits, run.seconds)
            )
            continue
        value = background.exits_per_operation(run.exits, run.seconds, run.operations)
        exits_per_op[run.case] = value
        metric = f"exit.{run.case}.exits_per_op"
        record_sample(metric, value, "exits/op", "none", parameters, boot=boot)
    if background is None:
        warnings.warn(
            "the hypervisor's statistics have no count of exits: exits/op is not recorded",
            stacklevel=2,
        )
    # Without an exit, a case measures nothing. Reports flag a deviation of 5 % from one exit.
    assert all(value > 0.5 for value in exits_per_op.values()), exits_per_op
