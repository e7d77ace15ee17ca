"""An exit to user space: the built-in VMM's run loop in Python and a minimal run loop in C.

    pytest benchmarks/test_exit_vs_c.py

Both run the same payload, which reads the same port and times batches of exits itself by the TSC.
Unit: cycles per exit. The benchmark prints the figures of each loop and the ratio within each pair,
and asserts none of them. Each pair has two ratios: of the medians, and of the fastest batches. A
busy machine disturbs the fastest batches less.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.pairs import alternating_pairs, format_line
from harness.guest.payload import PayloadFactory, assemble
from harness.hosts.base import Host
from harness.plugin.fixtures import RecordSample

PAIRS = 15
BATCHES = 200
EXITS = 200  # per batch: about 2 ms, less than a time slice, so that some batches run undisturbed
DATA = 0x20_0000
# Reads a port without a device. Stores the TSC before the first batch and after each batch.
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
    """Cycles per exit of each batch, from the payload's time stamps."""
    stamps = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]
    return [(b - a) / EXITS for a, b in pairwise(stamps)]


SIZE = 8 * (BATCHES + 1)


def run_built_in(payload: PayloadFactory, code: bytes) -> list[float]:
    """Run the payload on the session's hypervisor; cycles per exit of each batch."""
    guest = payload(code, exit_limit=0)
    guest.console.wait_for(".", 60.0)
    batches = cycles(guest.vm.memory[DATA : DATA + SIZE])
    guest.stop()
    return batches


def run_c(host: Host, program: str, code: str) -> list[float]:
    """Run the payload on the loop in C; cycles per exit of each batch."""
    # od prints hexadecimal digits, because run() decodes output as text.
    result = host.run(["sh", "-c", f'"{program}" "{code}" {SIZE} | od -An -v -tx1'], timeout=60)
    return cycles(bytes.fromhex(result.stdout))


def place_c_loop(host: Host, folder: Path) -> str:
    """Compile the loop in C and copy it to the host as an executable; its path there."""
    program, path = folder / "run_loop", f"{host.scratch()}/run_loop"
    source = Path(__file__).with_name("run_loop.c")
    subprocess.run(["gcc", "-O2", "-static", "-o", program, source], check=True)
    host.run(["cp", host.place(program), path])
    host.run(["chmod", "755", path])
    return path


def test_exit_vs_c(
    payload: PayloadFactory,
    record_sample: RecordSample,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Pairs of runs in alternating order, after a discarded warm-up run of each."""
    host, code = payload.hypervisor.host, assemble(SOURCE)
    (tmp_path / "code").write_bytes(code)
    program, code_path = place_c_loop(host, tmp_path), host.place(tmp_path / "code")
    loops: dict[str, Callable[[], list[float]]] = {
        "kvm": lambda: run_built_in(payload, code),
        "c": lambda: run_c(host, program, code_path),
    }
    for run in loops.values():
        run()
    medians: dict[str, list[float]] = {name: [] for name in loops}
    minima: dict[str, list[float]] = {name: [] for name in loops}
    for pair, name in alternating_pairs(loops, PAIRS):
        batches = loops[name]()
        medians[name].append(statistics.median(batches))
        minima[name].append(min(batches))
        parameters: dict[str, str | int | float] = {"loop": name, "ops": EXITS}
        metric = "exit.pio_user.flat"
        for number, value in enumerate(batches):
            record_sample(metric, value, "cycles", "lower", parameters, boot=pair, batch=number)
    with capsys.disabled():
        print()
        for label, values in (("median", medians), ("fastest", minima)):
            print(format_line(f"built-in run loop, {label}", values["kvm"], "cycles"))
            print(format_line(f"run loop in C, {label}", values["c"], "cycles"))
            ratios = [a / b for a, b in zip(values["kvm"], values["c"], strict=True)]
            print(format_line(f"built-in / C, {label}", ratios, ""))
