"""Fault injection in payload guests: vCPUs and disk requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError
from harness.guest.payload import PayloadFactory, PayloadGuest, assemble
from harness.guest.vm import AtExit, AtRequest
from harness.hypervisors.base import Disk
from tests.vmm.payload import FOR_EVER
from tests.vmm.test_payload_disk import SECTOR_ONE, source
from tests.waiting import wait_until

# handlers of the vectors 2 (NMI), 13 and 18 that record vector, error code and address
HANDLERS = """
    .set IDT, 0x207000 ; .set SEEN, 0x206000
    .macro handler vector
    mov $on\\vector, %eax ; movw %ax, IDT + 8 * \\vector ; movw $8, IDT + 8 * \\vector + 2
    movw $0x8e00, IDT + 8 * \\vector + 4 ; shr $16, %eax ; movw %ax, IDT + 8 * \\vector + 6
    .endm
    lidt idt_register
    handler 2 ; handler 13 ; handler 18
    mov $0xd00, %dx
"""
RECORDERS = """
idt_register: .word 0x7ff ; .long IDT
on2: movl $2, SEEN ; jmp on
on13: popl SEEN + 4 ; movl $13, SEEN ; jmp on
on18: movl $18, SEEN
on: popl SEEN + 8
    mov %eax, SEEN + 12
1:  hlt ; jmp 1b
"""


def recorded(guest: PayloadGuest) -> tuple[int, int, int, int]:
    """The vector, error code, address and EAX that a handler recorded."""
    data = guest.vm.memory[0x20_6000:0x20_6010]
    vector, code, rip, rax = (int.from_bytes(data[at : at + 4], "little") for at in (0, 4, 8, 12))
    return vector, code, rip, rax


def prepared(payload: PayloadFactory, body: str) -> PayloadGuest:
    """A guest with the handlers that has not started."""
    return payload(assemble(HANDLERS + body + RECORDERS), start=False)


def test_exception_at_the_nth_exit(payload: PayloadFactory) -> None:
    """The exception follows the third read, whose value is in EAX."""
    guest = prepared(payload, "xor %ecx, %ecx\n1: in %dx, %eax ; inc %ecx ; jmp 1b")
    answers = iter(range(100, 200))
    guest.vm.on_exit("io", lambda exit: next(answers), port=0xD00)
    at = AtExit("io", 3, port=0xD00)
    guest.vm.inject_fault("exception", vector=13, error_code=0x1234, at=at)
    guest.start()
    assert wait_until(lambda: recorded(guest)[0])
    vector, code, _, rax = recorded(guest)
    assert (vector, code, rax) == (13, 0x1234, 102)
    assert guest.vm.vcpus[0].regs.rcx == 2


@pytest.mark.parametrize(("kind", "vector"), [("nmi", 2), ("exception", 18)])
def test_fault_in_a_running_guest(payload: PayloadFactory, kind: str, vector: int) -> None:
    guest = prepared(payload, "movl $1, 0x200000\n1: jmp 1b")
    guest.start()
    assert wait_until(lambda: guest.vm.memory[0x20_0000:0x20_0001] == b"\1")
    guest.vm.inject_fault(kind, vector=vector)
    assert wait_until(lambda: recorded(guest)[0] == vector), recorded(guest)


def test_fault_from_a_callback(payload: PayloadFactory) -> None:
    guest = prepared(payload, "1: in %dx, %eax ; jmp 1b")
    vm = guest.vm

    def callback(exit: Any) -> int:
        vm.inject_fault("nmi", vcpu=exit.vcpu.index)
        return 9

    vm.on_exit("io", callback)
    guest.start()
    assert wait_until(lambda: recorded(guest)[0])
    assert (recorded(guest)[0], recorded(guest)[3]) == (2, 9)


@pytest.mark.parametrize("at", [None, AtExit("mmio", 2)], ids=["now", "at an exit"])
def test_triple_fault_ends_the_guest(payload: PayloadFactory, at: AtExit | None) -> None:
    guest = prepared(payload, "1: mov 0xd0000000, %eax ; jmp 1b")
    guest.start()
    assert wait_until(lambda: guest.vm.exits.get("mmio", 0) > 3)
    guest.vm.inject_fault("triple-fault", at=at)
    assert guest.wait_end().reason == "triple-fault"


def test_machine_check_without_a_handler_ends_the_guest(payload: PayloadFactory) -> None:
    """With CR4.MCE off and bank 0 enabled, KVM requests a shutdown."""
    body = (
        "mov $0x400, %ecx ; mov $-1, %eax ; mov %eax, %edx ; wrmsr ; movl $1, 0x200000\n1: jmp 1b"
    )
    guest = prepared(payload, body)
    guest.start()
    assert wait_until(lambda: guest.vm.memory[0x20_0000:0x20_0001] == b"\1")
    try:
        guest.vm.inject_fault("machine-check")
    except HarnessError as error:
        pytest.skip(f"this KVM does not inject machine checks: {error.cause}")
    assert guest.wait_end().reason == "triple-fault"


# -- requests -------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    path = tmp_path / "disk"
    path.write_bytes(bytes(512) + SECTOR_ONE.ljust(512, b"\0"))
    return Disk(str(path), "d", backend="process")


STATUSES = """
    request 1
1:  cmpw $1, USED + 2 ; jne 1b
    movzbl STATUS, %eax ; mov %eax, 0x208000
    mov USED + 4, %eax ; mov %eax, 0x208004
    request 2
1:  cmpw $2, USED + 2 ; jne 1b
    movzbl STATUS, %eax ; mov %eax, 0x208008
    mov COUNT, %eax ; mov %eax, 0x20800c
    movl $1, 0x208010
"""


def after_two_requests(payload: PayloadFactory, disk: Disk, kind: str, nth: int) -> list[int]:
    """Status of the first request, the id of its completion, status of the second, interrupts."""
    guest = payload(assemble(source(STATUSES + FOR_EVER)), disks=[disk], start=False)
    guest.vm.inject_fault(kind, at=AtRequest("d", nth))
    guest.start()
    assert wait_until(lambda: guest.vm.memory[0x20_8010:0x20_8011] == b"\1")
    data = guest.vm.memory[0x20_8000:0x20_8010]
    assert guest.statistics()["block_requests_d"] == 2
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, 16, 4)]


@pytest.mark.parametrize(("nth", "first", "second"), [(1, 1, 0), (2, 0, 1), (3, 0, 0)])
def test_nth_disk_request_fails(
    payload: PayloadFactory, disk: Disk, nth: int, first: int, second: int
) -> None:
    values = after_two_requests(payload, disk, "disk-error", nth)
    assert (values[0], values[2]) == (first, second)


def test_completion_with_an_invalid_id(payload: PayloadFactory, disk: Disk) -> None:
    assert after_two_requests(payload, disk, "bad-used", 1)[:3] == [0, 0xFFFF, 0]


@pytest.mark.parametrize(("nth", "interrupts"), [(3, 2), (1, 1)])
def test_lost_interrupt(payload: PayloadFactory, disk: Disk, nth: int, interrupts: int) -> None:
    body = """
        movl $0, BAR + 0x301c ; sti
        request 1
    1:  cmpw $1, USED + 2 ; jne 1b
        mov $1000, %ecx
    2:  loop 2b
        request 2
    1:  cmpw $2, USED + 2 ; jne 1b
        mov $1000, %ecx
    2:  loop 2b
        movl $1, 0x208010
    """
    guest = payload(assemble(source(body + FOR_EVER)), disks=[disk], start=False)
    guest.vm.inject_fault("lost-interrupt", at=AtRequest("d", nth))
    guest.start()
    assert wait_until(lambda: guest.vm.memory[0x20_8010:0x20_8011] == b"\1")
    count = int.from_bytes(guest.vm.memory[0x20_6000:0x20_6004], "little")
    assert count == interrupts


@pytest.mark.parametrize(
    ("kind", "arguments", "error"),
    [
        ("meteor", {}, "no fault 'meteor'"),
        ("meteor", {"at": AtRequest("d")}, "no request fault 'meteor'"),
        ("disk-error", {}, "no fault 'disk-error'"),
        ("disk-error", {"at": AtRequest("x")}, "no device 'x'"),
        ("disk-error", {"at": AtRequest("d", 0)}, "nth 0"),
        ("exception", {"vector": 32}, "vector 32"),
        ("exception", {"error_code": -1}, "error code -1"),
        ("nmi", {"vcpu": 1}, "vCPU 1"),
        ("nmi", {"at": AtExit("tea")}, "no exit reason 'tea'"),
    ],
    ids=str,
)
def test_invalid_fault_is_refused(
    payload: PayloadFactory, disk: Disk, kind: str, arguments: dict[str, Any], error: str
) -> None:
    guest = payload(assemble(FOR_EVER), disks=[disk])
    with pytest.raises(HarnessError, match=error):
        guest.vm.inject_fault(kind, **arguments)
