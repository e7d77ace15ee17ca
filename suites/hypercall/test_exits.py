"""What an exit costs: the same loop in the guest with and without an instruction that exits.

The tool in the guest (hv-exits) times batches; KVM's own counters before and after say how many
exits an operation really caused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from harness.errors import WorkloadError
from harness.fixtures import RecordSample
from harness.guest.factory import GuestFactory
from harness.guest.guest import Guest
from harness.hosts.base import Host

BOOTS = 6  # the fewest whose interval can cover 95 %
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
class Timed:
    """One run of hv-exits: its batches, and what KVM counted meanwhile."""

    batches: list[dict[str, float]]
    ops: int
    exits: int | None
    seconds: float


def run_case(guest: Guest, case: Case, ops: int) -> Timed:
    """Raises WorkloadError when the tool's output cannot be used."""
    argv = ["hv-exits", case.name, "--ops", str(ops), "--batches", str(BATCHES)]
    before = guest.statistics().get("exits")
    text = guest.ssh.run(argv, timeout=120).stdout
    exits = None if before is None else guest.statistics()["exits"] - before
    try:
        result: dict[str, Any] = json.loads(text)
        batches = [
            {key: float(batch[key]) for key in ("ns", "cycles")} for batch in result["batches"]
        ]
        return Timed(batches, ops, exits, sum(batch["ns"] for batch in batches) / 1e9)
    except (ValueError, KeyError, TypeError) as error:
        raise WorkloadError(
            f"hv-exits {case.name} printed no result: {text[-200:]!r}",
            mend="build the guest image again: python -m images build guest",
            stage="run",
            guest=guest.name,
        ) from error


def exits_per_operation(timed: Timed, control: Timed, start: Timed) -> float | None:
    """KVM's count per operation, less what is not the operation's; None where nothing counts.

    start: a control run that does next to nothing: the exits of starting the tool over SSH.
    control: a long one: beyond those, the timer's exits a second.
    """
    if timed.exits is None or control.exits is None or start.exits is None:
        return None
    timer = max(0.0, control.exits - start.exits) / control.seconds
    background = start.exits + timer * timed.seconds
    warm_up = timed.ops // 10 + 1  # hv-exits does so many before its first batch
    return (timed.exits - background) / (timed.ops * BATCHES + warm_up)


@pytest.mark.parametrize("boot", range(BOOTS))
def test_exit_costs(
    guest_factory: GuestFactory, host: Host, record_sample: RecordSample, boot: int
) -> None:
    """Every case in a fresh guest: a boot is one cluster of samples."""
    guest = guest_factory(f"exits-{boot}", exit_limit=0)  # a storm is what is measured here
    start = run_case(guest, CONTROL, 1_000)
    timed = {}
    for case in CASES:
        ops = case.emulated_ops if host.emulated else case.ops
        timed[case.name] = run_case(guest, case, ops)
    guest.stop()
    parameters: dict[str, dict[str, str | int | float]] = {
        name: {"ops": one.ops, "instructions": INSTRUCTIONS} for name, one in timed.items()
    }
    for name, one in timed.items():
        for number, batch in enumerate(one.batches):
            for metric, unit in ((f"exit.{name}", "ns"), (f"exit.{name}.cycles", "cycles")):
                value = batch[unit] / one.ops
                record_sample(
                    metric, value, unit, "lower", parameters[name], boot=boot, batch=number
                )
    found = {
        name: exits_per_operation(one, timed["control"], start)
        for name, one in timed.items()
        if name != "control"
    }
    counted = {name: value for name, value in found.items() if value is not None}
    for name, value in counted.items():
        metric = f"exit.{name}.exits_per_op"
        record_sample(metric, value, "exits/op", "", parameters[name], boot=boot)
    # a case that causes no exits measures nothing; the report flags what is off by 5 %
    assert all(value > 0.5 for value in counted.values()), counted
