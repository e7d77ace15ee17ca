"""An exit to user space: our run loop beside the same loop in C, same payload, same port.

    pytest benchmarks/test_exit_vs_c.py

The payload itself takes the time (TSC), batch by batch. Prints cycles an exit of each side and the
ratio of every pair of neighbours, of their medians and, for a machine that is busy with others, of
their quickest batches; nothing is asserted of them.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.pairs import line
from harness.guest.payload import PayloadFactory, assemble
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample

PAIRS = 15
BATCHES = 200
EXITS = 200  # a batch: about 2 ms, less than a time slice, so that some batch is not disturbed
DATA = 0x20_0000
# reads a port where nothing is, and stores the TSC before the first batch and after each
SOURCE = f"""
    mov $0xd00, %ebp ; mov ${DATA:#x}, %edi ; mov ${BATCHES + 1}, %esi
1:  rdtsc ; mov %eax, (%edi) ; mov %edx, 4(%edi) ; add $8, %edi
    dec %esi ; jz 3f
    mov ${EXITS}, %ecx ; mov %ebp, %edx
2:  in %dx, %al ; dec %ecx ; jnz 2b
    jmp 1b
3:  mov $0x3f8, %dx ; mov $'.', %al ; out %al, %dx ; mov $10, %al ; out %al, %dx
4:  hlt ; jmp 4b
"""


def cycles(data: bytes) -> list[float]:
    """Cycles an exit of each batch, from what the payload stored."""
    stamps = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
    return [(b - a) / EXITS for a, b in pairwise(stamps)]


SIZE = 8 * (BATCHES + 1)


def ours(payload: PayloadFactory, code: bytes) -> list[float]:
    guest = payload(code, exit_limit=0)
    guest.console.wait_for(".", 60.0)
    found = cycles(guest.vm.memory[DATA : DATA + SIZE])
    guest.stop()
    return found


def in_c(host: Host, program: str, code: str) -> list[float]:
    # as hexadecimal digits: what a host's programs print is taken for text
    done = host.run(["sh", "-c", f'"{program}" "{code}" {SIZE} | od -An -v -tx1'], timeout=60)
    return cycles(bytes.fromhex(done.stdout))


def test_exit_vs_c(
    payload: PayloadFactory,
    record_sample: RecordSample,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Pairs of runs, ours first and C first by turns; one warm-up each is not counted."""
    host = payload.hypervisor.host
    program, flat, code = tmp_path / "exits", tmp_path / "code", assemble(SOURCE)
    source = Path(__file__).with_name("run_loop.c")
    subprocess.run(["gcc", "-O2", "-static", "-o", program, source], check=True)
    flat.write_bytes(code)
    placed = f"{host.scratch()}/exits"
    host.run(["cp", host.place(program), placed])
    host.run(["chmod", "755", placed])
    at = host.place(flat)
    sides: dict[str, Callable[[], list[float]]] = {
        "kvm": lambda: ours(payload, code),
        "c": lambda: in_c(host, placed, at),
    }
    for run in sides.values():
        run()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for pair in range(PAIRS):
        for name in list(sides) if pair % 2 == 0 else list(sides)[::-1]:
            batches = sides[name]()
            found[name].append((statistics.median(batches), min(batches)))
            for number, value in enumerate(batches):
                parameters: dict[str, str | int | float] = {"loop": name, "ops": EXITS}
                record_sample(
                    "exit.pio_user.flat",
                    value,
                    "cycles",
                    "lower",
                    parameters,
                    boot=pair,
                    batch=number,
                )
    with capsys.disabled():
        print()
        for which, index in (("median", 0), ("quickest", 1)):
            mine, theirs = ([one[index] for one in found[name]] for name in sides)
            print(line(f"our run loop, {which}", mine, "cycles"))
            print(line(f"the loop in C, {which}", theirs, "cycles"))
            ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
            print(line(f"ours / C, {which}", ratios, ""))
