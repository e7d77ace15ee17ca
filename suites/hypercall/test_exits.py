"""What an exit costs: the same loop in the guest with and without an instruction that exits.

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
    """One run of hv-exits, and the exits that KVM counted meanwhile."""

    timed: Timed
    exits: int | None


def run_case(guest: Guest, case: Case, ops: int) -> Counted:
    """Raises WorkloadError when the tool's output cannot be used."""
    before = guest.statistics().get("exits")
    timed = time(guest, "hv-exits", case.name, ops, BATCHES)
    return Counted(timed, None if before is None else guest.statistics()["exits"] - before)


def exits_per_operation(case: Counted, control: Counted, start: Counted) -> float | None:
    """KVM's count per operation, less what is not the operation's; None where nothing counts.

    start: a control run that does next to nothing: the exits of starting the tool over SSH.
    control: a long one: beyond those, the timer's exits a second.
    """
    if case.exits is None or control.exits is None or start.exits is None:
        return None
    timer = max(0.0, control.exits - start.exits) / control.timed.seconds
    background = start.exits + timer * case.timed.seconds
    warm_up = case.timed.ops // 10 + 1  # hv-exits does so many before its first batch
    return (case.exits - background) / (case.timed.ops * BATCHES + warm_up)


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
        name: {"ops": one.timed.ops, "instructions": INSTRUCTIONS} for name, one in counted.items()
    }
    for name, one in counted.items():
        for number, batch in enumerate(one.timed.batches):
            for metric, unit in ((f"exit.{name}", "ns"), (f"exit.{name}.cycles", "cycles")):
                value = batch[unit] / one.timed.ops
                record_sample(
                    metric, value, unit, "lower", parameters[name], boot=boot, batch=number
                )
    found = {
        name: exits_per_operation(one, counted["control"], start)
        for name, one in counted.items()
        if name != "control"
    }
    known = {name: value for name, value in found.items() if value is not None}
    for name, value in known.items():
        metric = f"exit.{name}.exits_per_op"
        record_sample(metric, value, "exits/op", "", parameters[name], boot=boot)
    # a case that causes no exits measures nothing; the report flags what is off by 5 %
    assert all(value > 0.5 for value in known.values()), known
