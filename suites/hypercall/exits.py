"""What the exit costs of all rings have in common: cases, and the samples that a boot makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample
from harness.results.schema import Parameter
from suites.cost import Background

BOOTS = {"short": 5, "full": 12}
BATCHES = 30
# of one turn of the control loop: three that set registers, dec, jnz
INSTRUCTIONS = 5


@dataclass(frozen=True)
class Case:
    """name: as the program knows it. emulated_ops: operations a batch where exits are slow."""

    name: str
    emulated_ops: int
    ops: int = 100_000

    def ops_on(self, host: Host) -> int:
        return self.emulated_ops if host.emulated else self.ops


class Counted(Protocol):
    """One run of a case. costs: ns and cycles of each batch of `ops` operations. operations: all of
    them, the warm-up's among them. exits: those that KVM counted meanwhile; None where nothing
    counts."""

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
    keep: RecordSample, start: Counted, counted: Iterable[Counted], *, ring: int, boot: int
) -> None:
    """Keep what a boot measures, run by run, and judge it. start: a control that does next to
    nothing. counted: the control first."""
    background = None
    known: dict[str, float] = {}
    for one in counted:
        about: dict[str, Parameter] = {"ops": one.ops, "instructions": INSTRUCTIONS, "ring": ring}
        for number, costs in enumerate(one.costs):
            named = ((f"exit.{one.case}", "ns"), (f"exit.{one.case}.cycles", "cycles"))
            for (metric, unit), cost in zip(named, costs, strict=True):
                keep(metric, cost / one.ops, unit, "lower", about, boot=boot, batch=number)
        if start.exits is None or one.exits is None:
            continue
        if background is None:
            background = Background.between((start.exits, start.seconds), (one.exits, one.seconds))
            continue
        found = background.per_operation(one.exits, one.seconds, one.operations)
        known[one.case] = found
        keep(f"exit.{one.case}.exits_per_op", found, "exits/op", "", about, boot=boot)
    # a case that causes no exits measures nothing; the report flags what is off by 5 %
    assert all(value > 0.5 for value in known.values()), known
