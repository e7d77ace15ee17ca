"""What an exit costs in ring 0, with no operating system around it: each case a machine of its own.

KVM counts all exits of the machine, so that what an operation really caused is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.fixtures import RecordSample
from harness.guest.payload import PayloadFactory
from harness.hosts.base import Host
from suites import bare
from suites.cost import Background

pytestmark = pytest.mark.machine
BOOTS = {"short": 6, "full": 12}
BATCHES = 30
# mov, mov, mov, dec, jnz: what one turn of the control loop executes
INSTRUCTIONS = 5


@dataclass(frozen=True)
class Case:
    """emulated_ops: operations a batch where exits are slow."""

    name: str
    emulated_ops: int = 200
    ops: int = 100_000


START = Case("control", 1_000, 1_000)
CONTROL = Case("control", 5_000_000, 10_000_000)
CASES = (
    *map(Case, ("hypercall_null", "cpuid", "msr_read", "pio_kernel")),
    Case("pio_user", 100, 10_000),
    Case("mmio_user", 100, 10_000),
)


@pytest.mark.usefixtures("hypervisor")
def test_exit_costs(
    payload: PayloadFactory, program: Path, host: Host, record_sample: RecordSample, boot: int
) -> None:
    """A boot here is a machine for each case: one cluster of samples."""

    def run(case: Case) -> bare.Ran:
        ops = case.emulated_ops if host.emulated else case.ops
        return bare.run(payload, program, case.name, ops, BATCHES)

    start, control = run(START), run(CONTROL)
    found = [control, *map(run, CASES)]
    for ran in found:
        parameters = {"ops": ran.ops, "instructions": INSTRUCTIONS, "ring": 0}
        for number, cycles in enumerate(ran.batches):
            for metric, unit, value in (
                (f"exit.{ran.case}", "ns", cycles * ran.ns),
                (f"exit.{ran.case}.cycles", "cycles", cycles),
            ):
                record_sample(
                    metric, value / ran.ops, unit, "lower", parameters, boot=boot, batch=number
                )
    if start.exits is None or control.exits is None:
        return
    background = Background.between((start.exits, start.seconds), (control.exits, control.seconds))
    for ran in found[1:]:
        if ran.exits is not None:
            value = background.per_operation(ran.exits, ran.seconds, ran.operations)
            metric = f"exit.{ran.case}.exits_per_op"
            parameters = {"ops": ran.ops, "instructions": INSTRUCTIONS, "ring": 0}
            record_sample(metric, value, "exits/op", "", parameters, boot=boot)
            # a case that causes no exits measures nothing; the report flags what is off by 5 %
            assert value > 0.5, ran.case
