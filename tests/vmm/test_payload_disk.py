"""A payload with its own virtio-blk driver: PCI, MSI-X, ring, interrupt.

It tests ioeventfd, irqfd, interrupt routes and both backends (the device's thread and
qemu-storage-daemon) on a real KVM, without an operating system.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.vmm.devices.pci import ECAM_START, IO_START
from harness.vmm.memory import Memory
from tests.vmm.fakes import Board, FakeBackend
from tests.vmm.guests import Runner
from tests.vmm.payload import FOR_EVER, POWER_OFF

SECTOR_ONE = b"sector one\n"

SETUP = """
    .set QUEUE, 0x200000 ; .set AVAILABLE, 0x201000 ; .set USED, 0x202000
    .set HEADER, 0x203000 ; .set DATA, 0x204000 ; .set STATUS, 0x205000
    .set COUNT, 0x206000 ; .set IDT, 0x207000 ; .set BAR, 0xc0000000
    .macro pci register value
    .ifdef ECAM
    movl $\\value, ECAM + \\register
    .else
    mov $0xcf8, %dx ; mov $(0x80000800 | \\register), %eax ; out %eax, %dx
    mov $0xcfc, %dx ; mov $\\value, %eax ; out %eax, %dx
    .endif
    .endm
    .macro say from length
    mov $0x3f8, %dx ; mov $\\from, %esi ; mov $\\length, %ecx ; cld ; rep outsb
    .endm
    .macro request number kind=0     /* sector 1: 0 reads it, 1 writes it */
    movl $\\kind, HEADER ; movl $1, HEADER + 8 ; movl $0, HEADER + 12 ; movb $0xff, STATUS
    movl $HEADER, QUEUE ; movl $16, QUEUE + 8 ; movl $0x00010001, QUEUE + 12
    movl $DATA, QUEUE + 16 ; movl $512, QUEUE + 24
    movl $(0x00020003 - 2 * \\kind), QUEUE + 28
    movl $STATUS, QUEUE + 32 ; movl $1, QUEUE + 40 ; movl $2, QUEUE + 44
    movw $0, AVAILABLE + 4 + 2 * (\\number - 1) ; movw $\\number, AVAILABLE + 2
    mov $NOTIFY, %dx ; xor %eax, %eax ; out %ax, %dx
    .endm
    .macro start
    movb $1, BAR + 20 ; movb $3, BAR + 20
    movl $1, BAR + 8 ; movl $1, BAR + 12
    movb $11, BAR + 20
    movw $8, BAR + 24 ; movw $1, BAR + 26
    movl $QUEUE, BAR + 32 ; movl $AVAILABLE, BAR + 40 ; movl $USED, BAR + 48
    movw $1, BAR + 28
    movb $15, BAR + 20
    .endm
    .macro sleep_until count
7:  cli ; cmpl $\\count, COUNT ; jge 8f ; sti ; hlt ; jmp 7b
8:  sti
    .endm

    mov $0x300000, %esp
    lgdt gdt_register ; lidt idt_register
    mov $isr, %eax ; movw %ax, IDT + 8 * 0x40 ; movw $8, IDT + 8 * 0x40 + 2
    movw $0x8e00, IDT + 8 * 0x40 + 4 ; shr $16, %eax ; movw %ax, IDT + 8 * 0x40 + 6
    movl $0x1ff, 0xfee000f0          /* the local APIC is on */
    pci 0x04 0x7
    pci MSIX 0x80000000
    movl $0xfee00000, BAR + 0x3010 ; movl $0, BAR + 0x3014 ; movl $0x40, BAR + 0x3018
    start
"""
DATA_AND_CODE = """
    .balign 8
gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdt_register: .word 23 ; .long gdt
idt_register: .word 0x7ff ; .long IDT
isr: incl COUNT ; movl $0, 0xfee000b0
    push 8(%esp) ; popf ; ret $8         /* instead of iret, which KVM's emulator lacks here */
masked: .ascii "masked\\n"
woken: .ascii "woken\\n"
again: .ascii "again\\n"
"""


@pytest.fixture(params=["process", "vhost-user"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> list[dict[str, object]]:
    path = tmp_path / "disk"
    path.write_bytes(bytes(512) + SECTOR_ONE.ljust(512, b"\0"))
    return [{"path": str(path), "serial": "d", "readonly": True, "backend": request.param}]


def source(body: str, pvh: bool = False) -> str:
    """Assembly of a driver. pvh: for a kernel, which has no PCI ports."""
    board = Board(Memory(1 << 20), FakeBackend())
    places = f".set ECAM, {ECAM_START + (1 << 15):#x}\n" if pvh else ""
    places += f".set MSIX, {board.devices[0]._msix._capability} ; .set NOTIFY, {IO_START}\n"
    board.close()
    return places + SETUP + body + POWER_OFF + FOR_EVER + DATA_AND_CODE


@pytest.mark.parametrize("pvh", [False, True], ids=["ports", "memory"])
def test_read_by_polling(run: Runner, disk: list[dict[str, object]], pvh: bool) -> None:
    body = f"""
        request 1
    1:  cmpw $1, USED + 2 ; jne 1b
        cmpb $0, STATUS ; jne 2f
        cmpl $0, USED + 4 ; jne 2f
        cmpl $513, USED + 8 ; jne 2f
        say DATA {len(SECTOR_ONE)}
    2:
    """
    guest = run(source(body, pvh), pvh=pvh, disks=disk)
    end = guest.end()
    assert (end.reason, guest.lines) == ("power-off", ["sector one"]), end


def test_interrupts_and_a_masked_vector(run: Runner, disk: list[dict[str, object]]) -> None:
    body = f"""
        sti
        request 1                       /* every vector starts masked */
    1:  cmpw $1, USED + 2 ; jne 1b
        mov $1000, %ecx
    2:  loop 2b
        cmpl $0, COUNT ; jne 3f
        say masked 7
        movl $0, BAR + 0x301c           /* unmask: the pending interrupt arrives */
        sleep_until 1
        say woken 6
        request 2
        sleep_until 2
        say again 6
        say DATA {len(SECTOR_ONE)}
    3:
    """
    guest = run(source(body), disks=disk)
    end = guest.end()
    assert (end.reason, guest.lines) == (
        "power-off",
        ["masked", "woken", "again", "sector one"],
    ), end


def test_statistics_count_requests_and_kicks_cause_no_exit(
    run: Runner, disk: list[dict[str, object]]
) -> None:
    body = """
        request 1
    1:  cmpw $1, USED + 2 ; jne 1b
        say again 6
        cli
    2:  hlt ; jmp 2b
    """
    guest = run(source(body), disks=disk)
    guest.wait_line("again")
    statistics = guest.machine.statistics()
    assert statistics["block_requests_d"] == 1
    assert statistics["user_exits"] < 60  # by configuration and console, not by kicks


OURS = [
    ("movw $9, AVAILABLE + 2", "requests in 8 entries"),
    ("movw $8, AVAILABLE + 4", "descriptor index 8"),
    ("movw $0, QUEUE + 14", "loop"),
    ("movw $4, QUEUE + 12 ; movl $17, QUEUE + 8", "indirect"),
    ("movl $0xffffffff, QUEUE + 4", "outside guest memory"),
    ("movl $15, QUEUE + 8", "virtio-blk request without header"),
]
THE_DAEMONS = [
    ("movw $8, AVAILABLE + 4", "Guest says index 8"),
    ("movw $0, QUEUE + 14", "Looped descriptor"),
    ("movw $4, QUEUE + 12 ; movl $17, QUEUE + 8", "indirect"),
    ("movl $0xffffffff, QUEUE + 4", "invalid address"),
    ("movl $15, QUEUE + 8", "virtio-blk request outhdr too short"),
]

RANDOM = """
    .macro random number            /* 64 bytes */
    movl $DATA, QUEUE ; movl $64, QUEUE + 8 ; movl $2, QUEUE + 12
    movw $\\number, AVAILABLE + 2
    mov $NOTIFY, %dx ; xor %eax, %eax ; out %ax, %dx
    .endm
"""


@pytest.mark.parametrize("device", ["block_requests_d", "rng_requests"])
def test_requests_cause_no_exit_to_user_space(
    run: Runner, disk: list[dict[str, object]], device: str
) -> None:
    """Kicks use the ioeventfd, and the guest polls the used ring."""
    macro, disks = ("random", []) if device == "rng_requests" else ("request", disk)
    exits = []
    for count in (1, 50):
        body = RANDOM + "".join(
            f"{macro} {number}\n1: cmpw ${number}, USED + 2 ; jne 1b\n"
            for number in range(1, count + 1)
        )
        halted = body + "say again 6\ncli\n2: hlt ; jmp 2b\n"
        guest = run(source(halted), f"guest{count}", disks=disks, rng=not disks)
        guest.wait_line("again")
        statistics = guest.machine.statistics()
        assert statistics[device] == count
        exits.append(statistics["user_exits"])
    assert exits[0] == exits[1]


@pytest.mark.parametrize(
    ("disk", "change", "what"),
    [("process", *case) for case in OURS] + [("vhost-user", *case) for case in THE_DAEMONS],
    indirect=["disk"],
)
def test_malformed_request_ends_the_guest(
    run: Runner, disk: list[dict[str, object]], change: str, what: str
) -> None:
    body = "request 1\n" + FOR_EVER
    # before the request is visible: the start's kick may already handle it
    publish = "movw $\\number, AVAILABLE + 2"
    wrong = change if change.endswith("AVAILABLE + 2") else f"{change} ; {publish}"
    end = run(source(body).replace(publish, wrong), disks=disk).end()
    assert end.reason == "guest-fault"
    assert what in end.detail
