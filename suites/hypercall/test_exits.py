"""What an exit costs in ring 3: the same loop with an instruction that exits, and without.

The tool in the guest (hv-exits) times batches; KVM's own counters before and after say how many
exits an operation really caused.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from harness.fixtures import RecordSample
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host
from suites.cost import Background
from suites.tool import Timed, time

BOOTS = {"short": 6, "full": 12}
BATCHES = 30
# mov, xor, mov, dec, jnz: what one turn of the control loop executes
INSTRUCTIONS = 5


@dataclass(frozen=True)
class Case:
    """name: as hv-exits knows it. emulated_ops: operations a batch where exits are slow."""

    name: str
    emulated_ops: int
    ops: int = 100_000


CONTROL = Case("control", 10_000_000, 10_000_000)
CASES = (
    CONTROL,
    Case("hypercall_null", 2_000),
    Case("cpuid", 2_000),
    Case("pio_kernel", 1_000),
    Case("pio_user", 500, 10_000),
)


@dataclass(frozen=True)
class Counted:
    """One run of hv-exits, and the exits that KVM counted meanwhile; None where nothing counts."""

    timed: Timed
    exits: int | None

    @property
    def operations(self) -> int:
        """All of them: hv-exits does a tenth of a batch, and one, before its first."""
        return self.timed.ops * BATCHES + self.timed.ops // 10 + 1


def run_case(guest: Guest, case: Case, ops: int) -> Counted:
    """Raises WorkloadError when the tool's output cannot be used."""
    before = guest.statistics().get("exits")
    timed = time(guest, "hv-exits", case.name, ops, BATCHES)
    return Counted(timed, None if before is None else guest.statistics()["exits"] - before)


@pytest.mark.machine
def test_exit_costs(
    guest_factory: GuestFactory, host: Host, record_sample: RecordSample, boot: int
) -> None:
    """Every case in a fresh guest: a boot is one cluster of samples."""
    guest = guest_factory(f"exits-{boot}", exit_limit=0)  # a storm is what is measured here
    start = run_case(guest, CONTROL, 1_000)
    counted = {}
    for case in CASES:
        ops = case.emulated_ops if host.emulated else case.ops
        counted[case.name] = run_case(guest, case, ops)
    guest.stop()
    parameters: dict[str, dict[str, str | int | float]] = {
        name: {"ops": one.timed.ops, "instructions": INSTRUCTIONS, "ring": 3}
        for name, one in counted.items()
    }
    for name, one in counted.items():
        for number, batch in enumerate(one.timed.batches):
            for metric, unit in ((f"exit.{name}", "ns"), (f"exit.{name}.cycles", "cycles")):
                value = batch[unit] / one.timed.ops
                record_sample(
                    metric, value, unit, "lower", parameters[name], boot=boot, batch=number
                )
    long = counted["control"]
    if start.exits is None or long.exits is None:
        return
    background = Background.between(
        (start.exits, start.timed.seconds), (long.exits, long.timed.seconds)
    )
    known = {
        name: background.per_operation(one.exits, one.timed.seconds, one.operations)
        for name, one in counted.items()
        if one is not long and one.exits is not None
    }
    for name, value in known.items():
        metric = f"exit.{name}.exits_per_op"
        record_sample(metric, value, "exits/op", "", parameters[name], boot=boot)
    # a case that causes no exits measures nothing; the report flags what is off by 5 %
    assert all(value > 0.5 for value in known.values()), known
