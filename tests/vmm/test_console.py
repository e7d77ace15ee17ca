"""The console: lines, kernel panics, limits."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from harness.guest.console import Console as GuestConsole
from harness.vmm.console import Console
from tests.vmm.guests import Runner
from tests.vmm.payload import FOR_EVER, POWER_OFF
from tests.waiting import wait_until

PANIC = b"[    1.250000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x9\n"
WHY = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x9"
RESET = "mov $0xcf9, %dx ; mov $6, %al ; out %al, %dx\n"


class Screen:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.times: list[int] = []
        self.console = Console(self._emit)

    def _emit(self, at: int, text: str) -> None:
        self.times.append(at)
        self.lines.append(text)

    def write(self, data: bytes) -> None:
        for value in data:
            self.console.write_byte(value)


def test_invalid_utf8_becomes_text() -> None:
    screen = Screen()
    screen.write(b"one\r\n\n\xff\xfe\0two\nr\xc3\xa4der\nlast")
    assert screen.lines == ["one", "", "��\0two", "räder"]
    screen.console.flush_stale(-1)
    assert screen.lines[4:] == ["last"]
    assert screen.times == sorted(screen.times)


def test_stale_prompt_is_emitted() -> None:
    screen = Screen()
    screen.write(b"login: ")
    screen.console.flush_stale(60)
    assert screen.lines == []
    screen.console.flush_stale(-1)
    screen.console.flush_stale(-1)
    assert screen.lines == ["login: "]


@pytest.mark.parametrize("cut", range(0, len(PANIC), 3))
def test_panic_message_may_arrive_in_pieces(cut: int) -> None:
    screen = Screen()
    screen.write(PANIC[:cut])
    screen.console.flush_stale(-1)
    screen.write(PANIC[cut:])
    assert screen.console.panic == WHY
    assert "".join(screen.lines).encode() == PANIC.strip()


def test_first_panic_is_reported() -> None:
    screen = Screen()
    screen.write(PANIC + b"[ 2.0] Kernel panic - not syncing: another\n")
    assert screen.console.panic == WHY


def test_panic_text_within_a_line_is_ignored() -> None:
    screen = Screen()
    screen.write(b"grep: Kernel panic - not syncing: no\nKernel panic - syncing\n")
    assert screen.console.panic is None


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("before", [b"login: ", b"[ 0.5] hello", b"x" * 5000])
def test_panic_after_an_unfinished_line_is_detected(before: bytes, stale: bool) -> None:
    screen = Screen()
    screen.write(before)
    if stale:
        screen.console.flush_stale(-1)
    screen.write(PANIC)
    assert screen.console.panic == WHY


@pytest.mark.parametrize(
    "last",
    [
        b"[    1.3] ---[ end Kernel panic - not syncing: Attempted to kill init! ]---\n",
        b"[    1.3][    T1] Rebooting in 10 seconds..\n",
        b"Rebooting in 10 seconds..",
    ],
)
def test_kernel_that_does_not_restart_is_halted(last: bytes) -> None:
    screen = Screen()
    screen.write(last + b"\n")
    assert not screen.console.halted
    screen.write(PANIC)
    assert not screen.console.halted
    screen.write(last)
    screen.console.flush_stale(-1)
    assert screen.console.halted


def printing(text: bytes) -> str:
    """Assembly that writes the text to the serial port."""
    data = ", ".join(map(str, text))
    return f"""
        mov $0x3f8, %dx ; mov $1f, %esi ; mov ${len(text)}, %ecx ; rep outsb ; jmp 2f
        1: .byte {data}
        2:
    """


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (printing(PANIC) + RESET, "panic"),
        (printing(b"login: " + PANIC) + "lidt 3f ; ud2\n3: .word 0 ; .long 0\n", "panic"),
        (printing(PANIC + b"[    1.3] Rebooting in 10 seconds..\n"), "panic"),
        (printing(PANIC) + POWER_OFF, "power-off"),
        (printing(b"echo " + PANIC[15:]) + RESET, "reset"),
    ],
    ids=["reset", "triple-fault", "stays", "power-off", "words"],
)
def test_panic_requires_that_the_machine_ends(run: Runner, source: str, reason: str) -> None:
    end = run(source + FOR_EVER).end()
    assert (end.reason, end.detail == WHY) == (reason, reason == "panic")


def test_panic_message_alone_does_not_end_the_machine(run: Runner) -> None:
    guest = run(printing(PANIC) + FOR_EVER)
    guest.wait_line(PANIC.decode().strip())
    time.sleep(0.6)
    guest.machine.stop()
    assert guest.end().reason == "stopped"


@pytest.mark.parametrize("value", [b"x", b"\xff", b"\0"])
def test_endless_line_is_split(value: bytes) -> None:
    screen = Screen()
    screen.write(value * 100_000)
    assert set(map(len, screen.lines)) == {4096}
    assert len(screen.console._line) + len(screen.console._line_start) <= 8192
    screen.console.flush_stale(-1)
    assert sum(map(len, screen.lines)) == 100_000


def test_flood_of_lines_is_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", sleep)
    screen = Screen()
    screen.write(b"\n" * 8000)
    assert clock[0] < 0.1  # the output of a boot is not throttled
    screen.write(b"\n" * 80_000)
    assert clock[0] == pytest.approx(80_000 / 8192, rel=0.1)


def test_output_without_newlines_uses_bounded_memory(external_vmms: Runner) -> None:
    size = 5 << 20
    flood = f"head -c {size} /dev/zero | tr '\\0' x ; sleep 100"
    guest = external_vmms.start("exec", "flood", argv=["sh", "-c", flood])
    assert wait_until(lambda: len(guest.lines) == size / 4096)
    relay = psutil.Process(guest.machine.facts["pid"]).parent()
    assert relay is not None
    peak = Path(f"/proc/{relay.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
    assert int(peak) < 64 << 10  # KiB
    assert set(map(len, guest.lines)) == {4096}
    console = GuestConsole(max_lines=100)
    for line in guest.lines:
        console.add(0, line)
    assert len(console.tail(1000)) == 100


def test_flood_of_a_guest_is_split_into_lines(run: Runner) -> None:
    size = 128 << 10
    source = f"""
        cld ; mov $0x200000, %edi ; mov $'x', %al ; mov ${size}, %ecx ; rep stosb
        mov $0x3f8, %dx ; mov $0x200000, %esi ; mov ${size}, %ecx ; rep outsb
    """
    guest = run(source + POWER_OFF + FOR_EVER)
    assert guest.end().reason == "power-off"
    # on a slow machine an unfinished line may be emitted
    assert max(map(len, guest.lines)) <= 4096
    assert sum(map(len, guest.lines)) == size
