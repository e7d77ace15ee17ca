"""Ring 0 with nothing around it: one program, an ELF with a PVH entry, as a guest of its own.

The same file runs on every hypervisor that starts such a payload; each case in a fresh machine.
"""

from __future__ import annotations

import json
import struct
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError, ProvisionError, WorkloadError
from harness.guest.payload import PayloadFactory, PayloadGuest
from harness.plugin.fixtures import RecordSample
from suites.tool import operations

# in the order of `enum kind` in bare.c
CASES = (
    *("control", "hypercall_null", "cpuid", "msr_read", "pio_kernel", "pio_user", "mmio_user"),
    *("mmio_eventfd", "ipi", "ipi_halt", "timer_latency", "world_switch", "irqfd"),
)
INTERRUPTS = ("ipi", "ipi_halt", "timer_latency", "world_switch", "irqfd")
# what a case needs: address and interrupt vector; EVENTFD_MMIO, IRQFD_MMIO, IRQFD_VECTOR in bare.c
EVENTFDS = {"mmio_eventfd": {0xD000_1000: 0}, "irqfd": {0xD000_2000: 0x42}}
MEMORY = 64  # MiB
TIMEOUT = 120.0
INTERRUPT_BATCHES = 30
_starts: dict[tuple[str, Path, int, int], int | None] = {}
_ORDER = struct.Struct("<8sIIQ")  # `order` in bare.c
_MARK = b"HVORDER\0"
_BARE = (
    *("-m64", "-O2", "-Wall", "-Wextra", "-ffreestanding", "-nostdlib", "-static"),
    *("-no-pie", "-fno-pic", "-mno-red-zone", "-mgeneral-regs-only"),
    *("-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables"),
)
# one segment, at 1 MiB
_LINKED = ("-Wl,--build-id=none", "-Wl,-N", "-Wl,--no-warn-rwx-segments", "-Wl,-Ttext=0x100000")


@dataclass(frozen=True)
class Ran:
    """One case in one machine.

    batches: cycles of the TSC that each took. ns: of one cycle. ops: operations in each batch.
    exits: KVM's count of the machine's exits, its firmware's among them, but for those of its
    output; or None.
    """

    case: str
    batches: list[int]
    ns: float
    ops: int
    exits: int | None

    @property
    def costs(self) -> list[tuple[float, float]]:
        """ns and cycles of each batch."""
        return [(cycles * self.ns, cycles) for cycles in self.batches]

    @property
    def us(self) -> list[float]:
        """us an operation, of each batch."""
        return [cycles * self.ns / self.ops / 1e3 for cycles in self.batches]

    @property
    def seconds(self) -> float:
        return sum(self.batches) * self.ns / 1e9

    @property
    def operations(self) -> int:
        """All of them, those before the first batch included: of interrupts a whole batch."""
        if self.case in INTERRUPTS:
            return self.ops * (len(self.batches) + 1)
        return operations(self.ops, len(self.batches))


def serves_eventfds(payload: PayloadFactory) -> bool:
    """Whether the cases of EVENTFDS can run there."""
    return payload.hypervisor.payload_eventfds


def build(folder: Path) -> Path:
    """The program, with an order to be filled in. Raises ProvisionError (stage "create")."""
    here, made = Path(__file__).parent, folder / "bare"
    argv = ["gcc", *_BARE, *_LINKED, "-o", str(made), f"{here}/boot.S", f"{here}/bare.c"]
    try:
        subprocess.run(argv, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise ProvisionError("no gcc to build with", hint="install gcc", stage="create") from None
    except subprocess.CalledProcessError as error:
        raise ProvisionError(f"gcc: {error.stderr.strip()}", stage="create") from None
    return made


def order(program: Path, case: str, ops: int, batches: int) -> Path:
    """A copy beside it that does so many batches of so many operations of one case."""
    data = bytearray(program.read_bytes())
    _ORDER.pack_into(data, data.index(_MARK), _MARK, CASES.index(case), batches, ops)
    path = program.with_name(f"{program.name}-{case}-{ops}-{batches}")
    path.write_bytes(data)
    return path


def run(
    payload: PayloadFactory,
    program: Path,
    case: str,
    ops: int,
    batches: int,
    *,
    vcpus: int = 1,
    cpus: Sequence[int] = (),
) -> Ran:
    """cpus: the host's CPUs to run on, if not all. Raises WorkloadError when it does not tell what
    it should, ProvisionError where a case of EVENTFDS finds a hypervisor without."""
    ordered = order(program, case, ops, batches)
    guest = payload(
        ordered,
        mode="protected",
        memory=MEMORY,
        vcpus=vcpus,
        exit_limit=0,
        cpus=cpus,
        eventfds=EVENTFDS.get(case),
    )
    try:
        said = _result(guest)
        exits = guest.statistics().get("exits")
    except (TimeoutError, HarnessError) as error:
        raise _broken(guest, case, f"{guest.end or error}: {guest.console.tail()}") from error
    guest.stop()
    try:
        told = json.loads(said)
        if "error" in told:
            raise _broken(guest, case, told["error"])
        found = [int(one) for one in told["batches"]]
        if len(found) != batches or told["case"] != case or min(found) < 0:
            raise ValueError("batches are missing")
        ns = 2.0 ** int(told["shift"]) * int(told["mul"]) / 2**32
        return Ran(case, found, ns, ops, None if exits is None else exits - int(told["serial"]))
    except (ValueError, KeyError, TypeError) as error:
        raise _broken(guest, case, f"{said[-200:]!r}") from error


def record_interrupts(
    keep: RecordSample,
    metric: str,
    payload: PayloadFactory,
    program: Path,
    case: str,
    ops: int,
    *,
    boot: int,
    vcpus: int,
    cpus: Sequence[int] = (),
    ways: int = 1,
) -> None:
    """Run a case of interrupts and keep its batches, and the exits of one: KVM's count less that of
    a machine whose first CPU comes up and ends. Fewer are not better: a CPU that waits for another
    exits by its host's timer, too. ways: interrupts of an operation, where one way is timed."""
    start = _exits_to_start(payload, program, vcpus, boot)
    ran = run(payload, program, case, ops, INTERRUPT_BATCHES, vcpus=vcpus, cpus=cpus)
    parameters = {"ops": ops, "ring": 0}
    for number, value in enumerate(ran.us):
        keep(metric, value, "us", "lower", parameters, boot=boot, batch=number)
    if start is not None and ran.exits is not None:
        found = (ran.exits - start) / (ways * ran.operations)
        keep(f"{metric}.exits", found, "exits/op", "", parameters, boot=boot)


def _exits_to_start(payload: PayloadFactory, program: Path, vcpus: int, boot: int) -> int | None:
    """Of a machine that does next to nothing; looked for once a hypervisor and boot."""
    key = (payload.label, program, vcpus, boot)
    if key not in _starts:
        _starts[key] = run(payload, program, "control", 1, 1, vcpus=vcpus).exits
    return _starts[key]


def _result(guest: PayloadGuest) -> str:
    """The line that it ends with. Raises TimeoutError when late, or when the guest has ended."""
    late = time.monotonic() + TIMEOUT
    while True:
        ended = guest.ended.is_set()  # before the look: what it said last is there
        try:
            return guest.console.wait_for("}", 0.5)
        except TimeoutError:
            if ended or time.monotonic() > late:
                raise


def _broken(guest: PayloadGuest, case: str, what: str) -> WorkloadError:
    return WorkloadError(
        f"the case {case} tells no result: {what}",
        hint="see its console, and suites/bare",
        stage="run",
        guest=guest.name,
    )
