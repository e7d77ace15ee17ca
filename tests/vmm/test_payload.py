"""The whole VMM on this machine's /dev/kvm, with payloads.

A software KVM that cannot boot Linux runs them, too, in milliseconds.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.errors import HarnessError, ProvisionError
from harness.hypervisors.agent_client import AgentClient
from tests.vmm.guests import Runner
from tests.vmm.payload import FOR_EVER, HELLO, POWER_OFF, elf
from tests.waiting import gone, wait_until


def test_payload_writes_the_console_and_powers_off(run: Runner) -> None:
    guest = run(HELLO + POWER_OFF + FOR_EVER)
    assert guest.end().reason == "power-off"
    assert guest.lines == ["hi"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("mov $0xcf9, %dx ; mov $6, %al ; out %al, %dx", "reset"),
        ("mov $0xfe, %al ; out %al, $0x64", "reset"),
        ("lidt 1f ; ud2\n1: .word 0 ; .long 0", "triple-fault"),
    ],
)
def test_end_reasons(run: Runner, source: str, reason: str) -> None:
    assert run(source + "\n" + FOR_EVER).end().reason == reason


def test_stop_ends_a_halted_guest(run: Runner) -> None:
    guest = run(HELLO + FOR_EVER)
    guest.wait_line("hi")
    guest.machine.stop()
    assert guest.end().reason == "stopped"
    assert not psutil.pid_exists(guest.machine.facts["pid"])
    guest.machine.stop()  # idempotent


def test_killed_guest_is_reported_and_others_continue(run: Runner) -> None:
    guest, neighbour = run(HELLO + FOR_EVER, "a"), run(HELLO + FOR_EVER, "b")
    guest.wait_line("hi")
    neighbour.wait_line("hi")
    os.kill(guest.machine.facts["pid"], signal.SIGKILL)
    end = guest.end()
    assert (end.reason, "SIGKILL" in end.detail) == ("killed", True)
    assert not neighbour.ends
    assert neighbour.machine.statistics()["cpu_ns"] > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_guests_end_with_their_supervisor(
    own_run: Runner, own_supervisor: AgentClient, number: signal.Signals
) -> None:
    guest = own_run(HELLO + FOR_EVER)
    guest.wait_line("hi")
    os.kill(own_supervisor.pid, number)
    assert guest.end().reason == "lost"
    assert gone(guest.machine.facts["pid"])
    assert gone(own_supervisor.pid)


def test_closing_the_control_pipe_ends_all_guests(
    own_run: Runner, own_supervisor: AgentClient
) -> None:
    guest = own_run(HELLO + FOR_EVER)
    guest.wait_line("hi")
    own_supervisor.close()
    assert gone(guest.machine.facts["pid"])
    assert gone(own_supervisor.pid)


def test_unclaimed_ports_and_memory_read_all_ones(run: Runner) -> None:
    """Reads return all ones at every width. A failed comparison prints nothing."""
    source = """
        mov $0xd00, %dx
        in %dx, %al ; cmp $0xff, %al ; jne 9f
        in %dx, %ax ; cmp $0xffff, %ax ; jne 9f
        in %dx, %eax ; cmp $0xffffffff, %eax ; jne 9f
        movl $1, 0xd0000000
        mov 0xd0000000, %eax ; cmp $0xffffffff, %eax ; jne 9f
    """
    guest = run(source + HELLO + POWER_OFF + FOR_EVER)
    assert guest.end().reason == "power-off"
    assert guest.lines == ["hi"]


def test_eventfd_write_causes_no_exit_to_user_space(run: Runner) -> None:
    writes = "mov $100, %ecx\n1: movl %ecx, {:#x} ; dec %ecx ; jnz 1b\n"
    claimed, other = 0xD000_1000, 0xD000_1004
    code = writes.format(claimed) + writes.format(other) + HELLO + FOR_EVER
    guest = run(code, eventfds=[{"address": claimed}])
    guest.wait_line("hi")
    assert guest.machine.statistics()["user_exits_mmio"] == 100


@pytest.mark.parametrize(
    "eventfds",
    [
        *([(0x1000, 0)], [(0xD000_1002, 0)], [(1 << 32, 0)], [(-4, 0)]),
        *([(0xD000_1000, 15)], [(0xD000_1000, 256)]),
        [(0xD000_1000, 0)] * 2,
        [(0xD000_1000 + 4 * number, 0) for number in range(17)],
    ],
)
def test_invalid_eventfds_are_refused(run: Runner, eventfds: list[tuple[int, int]]) -> None:
    fields = [{"address": address, "vector": vector} for address, vector in eventfds]
    with pytest.raises(ProvisionError, match="eventfd"):
        run(FOR_EVER, eventfds=fields)


@pytest.mark.parametrize("field", ["address", "vector"])
def test_eventfd_fields_must_be_integers(run: Runner, field: str) -> None:
    fields = {"address": 0xD000_1000, "vector": 0, field: "x"}
    with pytest.raises(ProvisionError, match=f"{field} is no int"):
        run(FOR_EVER, eventfds=[fields])


def test_exits_are_counted(run: Runner) -> None:
    source = "mov $500, %ecx ; mov $0xd00, %dx\n1: in %dx, %al ; dec %ecx ; jnz 1b\n"
    guest = run(source + HELLO + FOR_EVER)
    guest.wait_line("hi")
    statistics = guest.machine.statistics()
    assert 500 <= statistics["user_exits_io"] <= 510
    assert statistics["user_exits"] >= statistics["user_exits_io"]


def test_second_vcpu_waits_for_sipi(run: Runner) -> None:
    guest = run(HELLO + POWER_OFF + FOR_EVER, vcpus=2)
    assert guest.end().reason == "power-off"


PCI_WRITE = """
    .macro pci register value
    mov $0xcf8, %dx ; mov $(0x80000800 | \\register), %eax ; out %eax, %dx
    mov $0xcfc, %dx ; mov $\\value, %eax ; out %eax, %dx
    .endm
    pci 0x04 0x3            /* decode the block device in slot 1; its BAR is the first */
    movb $1, 0xc0000014 ; movb $3, 0xc0000014
    movl $1, 0xc0000008 ; movl $1, 0xc000000c     /* accept VERSION_1 */
    movb $11, 0xc0000014
    movl $QUEUE, 0xc0000020 ; movl $AVAILABLE, 0xc0000028 ; movl $USED, 0xc0000030
    movw $1, 0xc000001c
    movb $15, 0xc0000014
    movl $0xfffff000, QUEUE ; movl $0xff, QUEUE + 4
    movw $1, AVAILABLE + 2
    mov $0x1000, %dx ; xor %eax, %eax ; out %ax, %dx
"""


@pytest.mark.parametrize(
    ("queue", "what"), [("0x200000", "outside guest memory"), ("0x7ffffff0", "outside")]
)
def test_malformed_ring_ends_the_guest(run: Runner, tmp_path: Path, queue: str, what: str) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    source = PCI_WRITE.replace("QUEUE", queue).replace("AVAILABLE", "0x201000")
    source = source.replace("USED", "0x202000")
    disks = [{"path": str(disk), "serial": "d", "backend": "process"}]
    neighbour = run(HELLO + FOR_EVER, "neighbour")
    end = run(source + FOR_EVER, disks=disks).end()
    assert end.reason == "guest-fault"
    assert what in end.detail
    assert not neighbour.ends


@pytest.mark.parametrize(
    ("arguments", "cause", "hint"),
    [
        ({"memory": 1}, "does not fit", "--guest-memory"),
        ({"memory": "much"}, "memory", "64 MiB"),
        ({"vcpus": 100_000}, "vCPUs", "at most"),
        ({"kernel": "/etc/passwd"}, "not a 64-bit ELF", "vmlinux"),
        ({"kernel": "/absent"}, "No such file", "path"),
        ({"initramfs": "/dev/null"}, "initramfs", ""),
        ({"cmdline": "x" * 5000}, "command line", "shorten"),
        ({"disks": [{"path": "/absent", "serial": "s"}]}, "No such file", "path"),
        ({"unknown": 1}, "unknown", ""),
    ],
)
def test_refusal_has_cause_and_hint(
    run: Runner, supervisor: AgentClient, arguments: dict[str, Any], cause: str, hint: str
) -> None:
    with pytest.raises(ProvisionError) as refused:
        run(FOR_EVER, pvh=True, **arguments)
    assert refused.value.stage == "create"
    assert cause in refused.value.cause
    assert hint in refused.value.hint
    assert run(HELLO + POWER_OFF + FOR_EVER, "next").end().reason == "power-off"


@pytest.mark.parametrize("size", [0, 100, 513])
def test_truncated_disk_is_refused(run: Runner, tmp_path: Path, size: int) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(size))
    with pytest.raises(ProvisionError, match=r"truncated|sectors"):
        run(FOR_EVER, disks=[{"path": str(disk), "serial": "s"}])


@pytest.mark.parametrize("keep", [30, 100, 200])
def test_truncated_kernel_is_refused(run: Runner, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "short"
    path.write_bytes(elf(b"\xf4" * 4096)[:keep])
    with pytest.raises(ProvisionError, match=r"truncated|not a 64-bit"):
        run(FOR_EVER, pvh=True, kernel=str(path))


def test_unknown_operation_is_an_error(run: Runner, supervisor: AgentClient) -> None:
    guest = run(HELLO + FOR_EVER)
    with pytest.raises(HarnessError, match="unknown operation"):
        supervisor.request("dance", "guest")
    with pytest.raises(HarnessError, match="no guest"):
        supervisor.request("stats", "absent")
    supervisor._process.write(b"no json\n[]\n{}\n")
    assert guest.machine.statistics()["cpu_ns"] > 0


def test_capabilities_are_read_from_kvm(supervisor: AgentClient) -> None:
    there = supervisor.request("capabilities")
    assert there["KVM_CAP_USER_MEMORY"] == 1
    assert there["KVM_CAP_IRQFD"] == 1


def test_repeated_guests_leave_nothing_behind(run: Runner, supervisor: AgentClient) -> None:
    process = psutil.Process(supervisor.pid)
    warm = run(HELLO + POWER_OFF + FOR_EVER, "warm")
    warm.end()
    warm.machine.stop()  # the supervisor holds the socket until the process has ended
    before = (process.num_fds(), process.num_threads())
    for number in range(30):
        guest = run(HELLO + POWER_OFF + FOR_EVER, f"g{number}")
        assert guest.end().reason == "power-off"
        guest.machine.stop()
    # a report of utilization holds files for a moment
    assert wait_until(lambda: process.num_fds() <= before[0] and process.num_threads() <= before[1])
    assert process.children() == []
