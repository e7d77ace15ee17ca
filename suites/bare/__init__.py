"""Runs a bare program: an ELF in ring 0 without an operating system, entered by PVH.

The same file runs on every hypervisor that can start such a payload. Each case runs in a fresh
machine, which prints one JSON object and halts. Unit: TSC cycles per batch; kvmclock converts them
to ns. KVM counts the exits of the whole machine.
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
from suites.timing_tools import total_operations

# the order of `enum case_number` in bare.c
CASES = (
    *("control", "hypercall_null", "cpuid", "msr_read", "pio_kernel", "pio_user", "mmio_user"),
    *("mmio_eventfd", "ipi", "ipi_halt", "timer_latency", "world_switch", "irqfd"),
)
INTERRUPT_CASES = ("ipi", "ipi_halt", "timer_latency", "world_switch", "irqfd")
# the eventfds of a case: address to interrupt vector (0: none), as in bare.c and interrupts.c
EVENTFDS = {"mmio_eventfd": {0xD000_1000: 0}, "irqfd": {0xD000_2000: 0x42}}
SOURCES = ("boot.S", "bare.c", "interrupts.c")
MEMORY = 64  # MiB
TIMEOUT = 120.0  # seconds
INTERRUPT_BATCHES = 30
_PARAMETERS = struct.Struct("<8sIIQ")  # `parameters` in bare.c
_MARK = b"HVPARAM\0"
_startup_exits_cache: dict[tuple[str, Path, int, int], int | None] = {}
_COMPILER_OPTIONS = (
    *("-m64", "-O2", "-Wall", "-Wextra", "-ffreestanding", "-nostdlib", "-static"),
    *("-no-pie", "-fno-pic", "-mno-red-zone", "-mgeneral-regs-only"),
    *("-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables"),
)
# one segment, at 1 MiB
_LINKER_OPTIONS = (
    *("-Wl,--build-id=none", "-Wl,-N", "-Wl,--no-warn-rwx-segments", "-Wl,-Ttext=0x100000"),
)


@dataclass(frozen=True)
class BareRun:
    """One run of a case, in a machine of its own.

    batches: TSC cycles of each batch. ns_per_cycle: the period of the TSC. ops: operations in a
    batch. exits: KVM's count of the machine's exits, with its firmware's but without those of its
    output; None without a counter.
    """

    case: str
    batches: list[int]
    ns_per_cycle: float
    ops: int
    exits: int | None

    @property
    def costs(self) -> list[tuple[float, float]]:
        """(ns, cycles) of each batch."""
        return [(cycles * self.ns_per_cycle, cycles) for cycles in self.batches]

    @property
    def us_per_operation(self) -> list[float]:
        """us of one operation, for each batch."""
        return [cycles * self.ns_per_cycle / self.ops / 1e3 for cycles in self.batches]

    @property
    def seconds(self) -> float:
        """Seconds of all batches."""
        return sum(self.batches) * self.ns_per_cycle / 1e9

    @property
    def operations(self) -> int:
        """Operations of the whole run, with the warm-up: for interrupts that is a whole batch."""
        if self.case in INTERRUPT_CASES:
            return self.ops * (len(self.batches) + 1)
        return total_operations(self.ops, len(self.batches))


def serves_eventfds(payload: PayloadFactory) -> bool:
    """Whether the payload's hypervisor can run the cases of EVENTFDS."""
    return payload.hypervisor.payload_eventfds


def build(folder: Path) -> Path:
    """Compile the program into the folder. Raises ProvisionError (stage "create")."""
    sources, program = Path(__file__).parent, folder / "bare"
    argv = ["gcc", *_COMPILER_OPTIONS, *_LINKER_OPTIONS, "-o", str(program)]
    try:
        subprocess.run(
            [*argv, *(f"{sources}/{name}" for name in SOURCES)],
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise ProvisionError(
            "gcc is not installed", hint="install the package gcc", stage="create"
        ) from None
    except subprocess.CalledProcessError as error:
        raise ProvisionError(f"gcc failed: {error.stderr.strip()}", stage="create") from None
    return program


def configure(program: Path, case: str, ops: int, batches: int) -> Path:
    """Write a copy of the program, beside it, that runs this case; its path."""
    data = bytearray(program.read_bytes())
    _PARAMETERS.pack_into(data, data.index(_MARK), _MARK, CASES.index(case), batches, ops)
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
) -> BareRun:
    """Run one case in a fresh machine. cpus: the host's CPUs that it may use; empty for all.

    Raises WorkloadError if the output is invalid. Raises ProvisionError for a case of EVENTFDS on a
    hypervisor without eventfds.
    """
    guest = payload(
        configure(program, case, ops, batches),
        mode="protected",
        memory=MEMORY,
        vcpus=vcpus,
        exit_limit=0,
        cpus=cpus,
        eventfds=EVENTFDS.get(case),
    )
    try:
        output = _read_result(guest)
        exits = guest.statistics().get("exits")
    except (TimeoutError, HarnessError) as error:
        cause = f"{guest.end or error}: {guest.console.tail()}"
        raise _result_error(guest, case, cause) from error
    guest.stop()
    try:
        result = json.loads(output)
        if "error" in result:
            raise _result_error(guest, case, result["error"])
        cycles = [int(value) for value in result["batches"]]
        if len(cycles) != batches or result["case"] != case or min(cycles) < 0:
            raise ValueError(f"expected {batches} batches of {case}")
        ns_per_cycle = 2.0 ** int(result["shift"]) * int(result["mul"]) / 2**32
        if exits is not None:
            exits -= int(result["serial"])
        return BareRun(case, cycles, ns_per_cycle, ops, exits)
    except (ValueError, KeyError, TypeError) as error:
        raise _result_error(guest, case, repr(output[-200:])) from error


def record_interrupts(
    record_sample: RecordSample,
    metric: str,
    payload: PayloadFactory,
    program: Path,
    case: str,
    ops: int,
    *,
    boot: int,
    vcpus: int,
    cpus: Sequence[int] = (),
    interrupts_per_op: int = 1,
) -> None:
    """Run a case of interrupts; record us (one sample per batch) and exits per interrupt.

    The exits are KVM's count less that of a control machine that only starts and ends. They have no
    better direction: a CPU that waits also exits by the host's timer. interrupts_per_op: 2 if an
    operation is a round trip, of which the program times one half.
    """
    startup_exits = _startup_exits(payload, program, vcpus, boot)
    measured = run(payload, program, case, ops, INTERRUPT_BATCHES, vcpus=vcpus, cpus=cpus)
    parameters = {"ops": ops, "ring": 0}
    for number, value in enumerate(measured.us_per_operation):
        record_sample(metric, value, "us", "lower", parameters, boot=boot, batch=number)
    if startup_exits is not None and measured.exits is not None:
        exits = (measured.exits - startup_exits) / (interrupts_per_op * measured.operations)
        record_sample(f"{metric}.exits", exits, "exits/op", "none", parameters, boot=boot)


def _startup_exits(payload: PayloadFactory, program: Path, vcpus: int, boot: int) -> int | None:
    """Exits of a control machine with one operation, measured once per hypervisor and boot."""
    key = (payload.label, program, vcpus, boot)
    if key not in _startup_exits_cache:
        _startup_exits_cache[key] = run(payload, program, "control", 1, 1, vcpus=vcpus).exits
    return _startup_exits_cache[key]


def _read_result(guest: PayloadGuest) -> str:
    """The guest's last console line. Raises TimeoutError if it is late or the guest has ended."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        ended = guest.ended.is_set()  # read this first: the last line may come with the end
        try:
            return guest.console.wait_for("}", 0.5)
        except TimeoutError:
            if ended or time.monotonic() > deadline:
                raise


def _result_error(guest: PayloadGuest, case: str, cause: str) -> WorkloadError:
    return WorkloadError(
        f"the bare program printed no valid result for {case}: {cause}",
        hint="read the guest's console output",
        stage="run",
        guest=guest.name,
    )
