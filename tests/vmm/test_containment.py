"""A guest that misuses its VMM ends alone, with a reason; other guests continue."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from harness.errors import ProvisionError
from harness.kvm.errors import MachineEnd
from harness.vmm.exit_storm import ExitStormDetector
from tests.vmm.guests import Runner
from tests.vmm.payload import FOR_EVER, HELLO, POWER_OFF
from tests.waiting import wait_until

STORM = "mov $0xd00, %dx\n1: in %dx, %al ; jmp 1b\n"
FLOOD = """
    cld ; mov $0x200000, %edi ; mov $10, %al ; mov $65536, %ecx ; rep stosb
    1: mov $0x3f8, %dx ; mov $0x200000, %esi ; mov $65536, %ecx ; rep outsb ; jmp 1b
"""
WITHIN = 1.0  # seconds until the guest ends


class CountingVcpu:
    """A vCPU and a serial port with exit counts that the test sets."""

    def __init__(self) -> None:
        self.exits = [0] * 8
        self.reads = 0


def poll_storm(monkeypatch: pytest.MonkeyPatch, limit: int, rates: list[int]) -> float | None:
    """Poll every 0.1 s while exits occur at these rates. Returns when the machine ends (s)."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    vcpus = [CountingVcpu(), CountingVcpu()]
    serial = CountingVcpu()
    storm = ExitStormDetector(vcpus, serial, limit)  # type: ignore[arg-type]
    for number, rate in enumerate(rates, 1):
        now[0] += 0.1
        vcpus[number % 2].exits[2] += rate // 20
        vcpus[0].exits[6] += rate // 20 + 500
        serial.reads += 500
        end = storm.poll()
        if end:
            assert isinstance(end, MachineEnd)
            assert end.reason == "exit-storm"
            assert f"{limit} are allowed" in end.detail
            return round(0.1 * number, 3)
    return None


def test_only_a_sustained_rate_is_a_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = poll_storm(monkeypatch, 1000, [0, 0, *[2000] * 10])
    assert ended is not None
    assert 0.2 + 0.4 < ended <= 0.2 + WITHIN
    assert poll_storm(monkeypatch, 1000, [900] * 100) is None
    assert poll_storm(monkeypatch, 1000, [100_000, 100_000, 100_000, 10] * 20) is None
    assert poll_storm(monkeypatch, 0, [100_000] * 100) is None


def test_exit_storm_ends_the_guest(run: Runner) -> None:
    neighbour = run(HELLO + FOR_EVER, "neighbour")
    guest = run(STORM, exit_limit=1000)
    end = guest.end()
    assert end.reason == "exit-storm"
    assert "1000 are allowed" in end.detail
    assert end.time_ns - guest.marks["kernel"] < WITHIN * 1e9
    assert not neighbour.ends


def test_limit_can_be_set_on_a_running_guest(run: Runner) -> None:
    guest = run(HELLO + STORM, exit_limit=0)
    guest.wait_line("hi")
    guest.machine.limit_exits(1000)
    assert guest.end().reason == "exit-storm"


def test_limit_of_zero_disables_the_detector(run: Runner) -> None:
    guest = run(STORM, exit_limit=0)
    time.sleep(1.0)
    assert guest.machine.statistics()["user_exits"] > 1000
    assert not guest.ends


def test_busy_guest_without_exits_is_no_storm(run: Runner) -> None:
    guest = run(HELLO + "1: jmp 1b", exit_limit=100)
    time.sleep(0.8)
    assert not guest.ends
    guest.machine.stop()
    assert guest.end().reason == "stopped"


def test_flooded_console_does_not_delay_other_guests(run: Runner) -> None:
    """All guests' lines share the supervisor's output."""
    flooding = [run(FLOOD, f"flood{number}", exit_limit=0) for number in range(2)]
    neighbour = run(HELLO + FOR_EVER, "neighbour")
    neighbour.wait_line("hi")
    assert wait_until(lambda: all(len(guest.lines) > 10_000 for guest in flooding))
    for _ in range(5):
        began = time.monotonic()
        neighbour.machine.statistics()
        assert time.monotonic() - began < WITHIN
    killed = time.monotonic()
    os.kill(neighbour.machine.facts["pid"], signal.SIGKILL)
    assert wait_until(lambda: neighbour.ends, WITHIN)
    assert time.monotonic() - killed < WITHIN
    began = time.monotonic()
    for guest in flooding:
        guest.machine.stop()
        assert guest.end().reason == "stopped"
    assert time.monotonic() - began < 2 * len(flooding) * WITHIN


def test_pinned_vcpus_run_on_their_cpus(run: Runner) -> None:
    there = sorted(os.sched_getaffinity(0))
    cpus = [there[-1], there[0]]
    guest = run(HELLO + FOR_EVER, vcpus=2, pin=cpus)
    guest.wait_line("hi")
    threads = {
        (path / "comm").read_text().strip(): int(path.name)
        for path in Path(f"/proc/{guest.machine.facts['pid']}/task").iterdir()
    }
    assert [os.sched_getaffinity(threads[name]) for name in ("vcpu0", "vcpu1")] == [
        {cpu} for cpu in cpus
    ]
    assert os.sched_getaffinity(guest.machine.facts["pid"]) == set(there)


@pytest.mark.parametrize(
    ("vcpus", "pin", "cause", "hint"),
    [
        (1, [4000], r"CPUs \[4000\]", "choose from"),
        (1, [-2], r"CPUs \[-2\]", "choose from"),
        (2, [0], "pin lists 1 CPUs for 2 vCPUs", "one CPU for each"),
        (1, ["0"], "pin is no int", ""),
    ],
)
def test_invalid_pinning_is_refused(
    run: Runner, vcpus: int, pin: list[int], cause: str, hint: str
) -> None:
    with pytest.raises(ProvisionError, match=cause) as refused:
        run(FOR_EVER, vcpus=vcpus, pin=pin)
    assert hint in refused.value.hint


def test_eight_vcpus_start_by_init_and_sipi(run: Runner) -> None:
    """APIC ids begin at 0; each vCPU starts in real mode at its SIPI's page."""
    source = """
        mov $trampoline, %esi ; mov $0x8000, %edi ; mov $(trampoline_end - trampoline), %ecx
        cld ; rep movsb
        movl $0, 0x9000 ; movl $0, 0x9004
        movl $0x1ff, 0xfee000f0              /* enable the local APIC */
        movl $0xc4500, 0xfee00300            /* INIT to all but self */
        mov $2000, %ecx
    1:  dec %ecx ; jnz 1b
        movl $0xc4608, 0xfee00300            /* start-up IPI: page 8 */
    2:  cmpl $7, 0x9000 ; jne 2b
        mov 0x9004, %eax ; cmp $0xfe, %eax ; jne 9f
    """
    trampoline = """
        9: hlt ; jmp 9b
        .code16
    trampoline:
        xor %ax, %ax ; mov %ax, %ds
        mov $1, %eax ; cpuid ; shr $24, %ebx ; mov %bl, %cl
        mov $1, %eax ; shl %cl, %eax ; lock orl %eax, 0x9004
        lock incl 0x9000
    8:  hlt ; jmp 8b
    trampoline_end:
        .code32
    """
    guest = run(source + HELLO + POWER_OFF + trampoline, vcpus=8)
    assert guest.end().reason == "power-off"
    assert guest.lines == ["hi"]
