"""Introspection of payload guests on this machine's KVM: registers, memory, steps, exits."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from harness.errors import GuestEnded, HarnessError
from harness.guest.payload import PayloadFactory, PayloadGuest, assemble
from harness.guest.vm import Exit
from tests.vmm.payload import FOR_EVER, POWER_OFF
from tests.waiting import TIMEOUT, wait_until

COUNTER = 0x20_0000
COUNT = f"1: incl {COUNTER:#x} ; jmp 1b"
# copies from port 0xd00 to port 0xd04 in a loop
ECHO = "mov $0xd00, %edx\n1: in %dx, %eax ; add $4, %edx ; out %eax, %dx ; sub $4, %edx ; jmp 1b"
ASK = "mov $0xd00, %dx ; in %dx, %eax ; mov %eax, 0x200000\n"


def number(guest: PayloadGuest, gpa: int = COUNTER) -> int:
    return int.from_bytes(guest.vm.memory[gpa : gpa + 4], "little")


# -- registers and memory ----------------------------------------------------------------------


def test_registers_of_a_running_guest(payload: PayloadFactory) -> None:
    guest = payload(assemble(COUNT))
    regs = guest.vm.vcpus[0].regs
    assert 0x10_0000 <= regs.rip < 0x10_0010
    assert regs["rflags"] & 2
    regs.rbx = 5
    assert regs.rbx == 5
    assert guest.vm.vcpus[0].regs.rbx == 5
    regs.update({"r8": 1 << 63, "rcx": 7})
    assert dict(guest.vm.vcpus[0].regs) | {"rip": 0, "rflags": 0} == {
        **dict.fromkeys(regs, 0),
        "rbx": 5,
        "rcx": 7,
        "r8": 1 << 63,
        "rsp": 0x9F000,
    }
    assert "rbx=0x5" in repr(regs)
    before = number(guest)
    assert wait_until(lambda: number(guest) > before), "the guest still runs"


def test_dirty_log_has_the_written_pages(payload: PayloadFactory) -> None:
    guest = payload(assemble(COUNT), memory=4)
    with guest.vm.memory.log_dirty_pages() as log:
        assert wait_until(lambda: log.pages() == [COUNTER])
        assert wait_until(lambda: log.pages() == [COUNTER]), "a second write is logged again"
        with guest.vm.memory.log_dirty_pages() as inner:
            assert wait_until(lambda: inner.pages() == [COUNTER])
        with guest.vm.paused():
            log.pages()
            assert log.pages() == [], "the paused guest does not write"
    with pytest.raises(HarnessError, match="no longer logged"):
        log.pages()
    before = number(guest)
    assert wait_until(lambda: number(guest) > before), "the guest still runs"


def test_segments_and_control_registers_are_read_and_set(payload: PayloadFactory) -> None:
    guest = payload(assemble(FOR_EVER, "long"), mode="long")
    vcpu = guest.vm.vcpus[0]
    sregs = vcpu.sregs
    assert (sregs.cs.selector, sregs.cs.long, sregs.gdt.base) == (8, 1, 0x500)
    assert (sregs.cr0 >> 31, sregs.cr3, sregs.efer & 0x400) == (1, 0x1000, 0x400)
    sregs.cr2 = 0x1234
    assert vcpu.sregs.cr2 == 0x1234
    with pytest.raises(HarnessError, match="Invalid argument"):
        sregs.cr0 = 1 << 31  # paging without protection
    assert vcpu.sregs.cr0 == sregs.cr0


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("xmm0", 1, AttributeError),
        ("rax", -1, HarnessError),
        ("rax", 1 << 64, HarnessError),
        ("rax", "5", HarnessError),
    ],
)
def test_invalid_register_value_is_refused(
    payload: PayloadFactory, name: str, value: Any, error: type[Exception]
) -> None:
    regs = payload(assemble(FOR_EVER)).vm.vcpus[0].regs
    with pytest.raises(error, match=name):
        setattr(regs, name, value)
    with pytest.raises(AttributeError, match="no register 'eax'"):
        _ = regs.eax


def test_large_memory_access_is_split(payload: PayloadFactory) -> None:
    vm = payload(assemble(FOR_EVER), memory=4).vm
    data = bytes(range(256)) * 2050  # needs three messages
    vm.memory[COUNTER : COUNTER + len(data)] = data
    assert vm.memory[COUNTER : COUNTER + len(data)] == data
    assert vm.memory[COUNTER - 1 : COUNTER + 3] == b"\0\0\1\2"
    assert vm.memory[5:5] == b""
    assert vm.memory[(4 << 20) - 4 : 4 << 20] == bytes(4)


def test_memory_access_out_of_range_is_refused(payload: PayloadFactory) -> None:
    vm = payload(assemble(FOR_EVER), memory=4).vm
    with pytest.raises(HarnessError, match="outside guest memory"):
        _ = vm.memory[(4 << 20) - 4 : (4 << 20) + 1]
    with pytest.raises(HarnessError, match="outside guest memory"):
        vm.memory[1 << 70 : (1 << 70) + 1] = b"x"
    with pytest.raises(ValueError, match="3 bytes of data for 4"):
        vm.memory[0:4] = b"abc"
    with pytest.raises(ValueError, match="not a range"):
        _ = vm.memory[4:2]
    for index in (slice(None, 4), slice(0, None), slice(0, 4, 2), 5):
        with pytest.raises(TypeError, match="both addresses"):
            _ = vm.memory[index]  # type: ignore[index]


# -- pauses and steps --------------------------------------------------------------------------


def test_paused_guest_does_not_run(payload: PayloadFactory) -> None:
    guest = payload(assemble(COUNT))
    with guest.vm.paused():
        with guest.vm.paused():
            state = number(guest), dict(guest.vm.vcpus[0].regs)
        assert (number(guest), dict(guest.vm.vcpus[0].regs)) == state, "still paused"
    assert wait_until(lambda: number(guest) > state[0])
    guest.vm.pause()
    guest.stop()
    assert guest.wait_end().reason == "stopped"


def test_step_runs_single_instructions(payload: PayloadFactory) -> None:
    guest = payload(assemble("nop ; inc %eax ; inc %eax ; nop\n" + FOR_EVER), start=False)
    vcpu = guest.vm.vcpus[0]
    step_or_skip(guest)
    assert (vcpu.regs.rip, vcpu.regs.rax) == (0x10_0001, 0)
    vcpu.step(2)
    assert vcpu.regs.rax == 2
    guest.start()
    with pytest.raises(HarnessError, match="pause it first"):
        vcpu.step()


def step_or_skip(guest: PayloadGuest) -> None:
    """Run one step, or skip the test: a software KVM may not support steps."""
    try:
        guest.vm.vcpus[0].step()
    except HarnessError as error:
        pytest.skip(f"this KVM has no single-step: {error.cause}")


# -- exits -------------------------------------------------------------------------------------


def test_exits_are_counted_by_reason(payload: PayloadFactory) -> None:
    source = "mov $100, %ecx ; mov $0xd00, %dx\n1: in %dx, %al ; loop 1b\nmovl $1, 0xd0000000\n"
    guest = payload(assemble(source + "mov $0x600, %dx\n2: in %dx, %al ; jmp 2b"), start=False)
    assert guest.vm.exits == {}
    guest.start()
    assert wait_until(lambda: guest.vm.exits.get("mmio") == 1)
    with guest.vm.paused():
        exits, statistics = guest.vm.exits, guest.vm.statistics
    assert exits["io"] > 100
    assert statistics["user_exits"] == sum(exits.values()) == exits["io"] + 1


def test_callback_gets_exits_and_answers_reads(payload: PayloadFactory) -> None:
    source = """
        mov $0xd00, %dx ; mov $0x11223344, %eax ; out %ax, %dx
        in %dx, %eax ; mov %eax, 0xd0000008
        mov 0xd0000010, %ebx ; mov %ebx, 0x200000
    """
    guest = payload(assemble(source + FOR_EVER), start=False)
    exits: list[Exit] = []

    def callback(exit: Exit) -> int | None:
        exits.append(exit)
        return None if exit.write else 0x1_0000_0000 + len(exits)

    guest.vm.on_exit("io", callback, port=0xD00)
    guest.vm.on_exit("mmio", callback)
    guest.start()
    assert wait_until(lambda: number(guest))
    vcpu = guest.vm.vcpus[0]
    assert exits == [
        Exit("io", vcpu, port=0xD00, size=2, data=0x3344, write=True),
        Exit("io", vcpu, port=0xD00, size=4),
        Exit("mmio", vcpu, address=0xD000_0008, size=4, data=2, write=True),
        Exit("mmio", vcpu, address=0xD000_0010, size=4),
    ]
    assert number(guest) == 4


def test_answered_write_is_dropped_until_the_hook_is_removed(
    payload: PayloadFactory,
) -> None:
    """The hook drops the write that powers off."""
    guest = payload(assemble(f"1: incl {COUNTER:#x}\n{POWER_OFF} jmp 1b"), start=False)
    hook = guest.vm.on_exit("io", lambda exit: 0, port=0x604)
    guest.start()
    assert wait_until(lambda: number(guest) > 3)
    hook.remove()
    assert guest.wait_end().reason == "power-off"


def test_string_access_calls_back_for_each_element(payload: PayloadFactory) -> None:
    source = "mov $0x200000, %edi ; mov $3, %ecx ; mov $0xd00, %dx ; cld ; rep insb\n"
    guest = payload(assemble(source + POWER_OFF), start=False)
    letters = iter(b"abc")
    guest.vm.on_exit("io", lambda exit: next(letters), port=0xD00)
    contents: list[bytes] = []
    hook = guest.vm.on_exit(
        "io", lambda exit: contents.append(guest.vm.memory[COUNTER : COUNTER + 3])
    )
    guest.start()
    assert guest.wait_end().reason == "power-off"
    assert contents[-1] == b"abc"
    assert hook


def test_shutdown_calls_back(payload: PayloadFactory) -> None:
    guest = payload(assemble("lidt 1f ; ud2\n1: .word 0 ; .long 0"), start=False)
    exits: list[tuple[str, int]] = []
    guest.vm.on_exit("shutdown", lambda exit: exits.append((exit.reason, exit.vcpu.regs.rip)))
    guest.start()
    assert guest.wait_end().reason == "triple-fault"
    assert [reason for reason, _ in exits] == ["shutdown"]


def test_callback_may_use_introspection(payload: PayloadFactory) -> None:
    """It sets registers of its vCPU and memory, adds a hook, and pauses the guest."""
    guest = payload(assemble(ECHO), start=False)
    vm = guest.vm
    values: list[Any] = []

    def on_read(exit: Exit) -> int:
        values.append(exit.vcpu.regs.rdx)
        vm.memory[COUNTER : COUNTER + 1] = b"x"
        values.append(vm.memory[COUNTER : COUNTER + 1])
        exit.vcpu.regs.rsi = 77
        values.append(vm.exits["io"])
        if len(values) == 3:
            vm.on_exit("io", lambda exit: values.append(exit.data), port=0xD04)
        vm.pause()
        return 42

    vm.on_exit("io", on_read, port=0xD00)
    guest.start()
    assert wait_until(lambda: len(values) == 3)
    with vm.paused():
        assert wait_until(lambda: vm.vcpus[0].regs.rax == 42), "the read was completed"
        assert vm.vcpus[0].regs.rsi == 77
    assert wait_until(lambda: len(values) == 7)
    assert values[:4] == [0xD00, b"x", 1, 42]


SECOND_STARTS = """
    movl $0x000c4500, 0xfee00300        /* INIT to all others, then a start at 0x8000 */
    mov $100000, %ecx
3:  loop 3b
    movl $0x000c4608, 0xfee00300
"""


def test_callbacks_of_two_vcpus_run_in_turn(payload: PayloadFactory) -> None:
    """While one vCPU waits for its callback, the other runs and can be read."""
    second = "mov $0xd08, %dx\n1: in %dx, %eax ; mov %eax, %ebx ; jmp 1b"
    guest = payload(assemble(SECOND_STARTS + ECHO), vcpus=2, start=False)
    guest.vm.memory[0x8000 : 0x8000 + 64] = assemble(second, "real", 0).ljust(64, b"\xf4")
    indexes: set[int] = set()

    def callback(exit: Exit) -> int:
        other = guest.vm.vcpus[1 - exit.vcpu.index]
        _ = other.regs.rip
        indexes.add(exit.vcpu.index)
        return 1

    guest.vm.on_exit("io", callback)
    guest.start()
    assert wait_until(lambda: indexes == {0, 1}), indexes


# -- errors ------------------------------------------------------------------------------------


def test_exception_in_a_callback_ends_the_guest_and_is_raised(payload: PayloadFactory) -> None:
    guest = payload(assemble(ECHO), start=False)
    guest.vm.on_exit("io", lambda exit: 1 // 0)
    guest.start()
    assert guest.ended.wait(TIMEOUT)
    assert guest.end is not None
    assert guest.end.reason == "callback-error"
    assert "ZeroDivisionError" in guest.end.detail
    with pytest.raises(ZeroDivisionError):
        guest.wait_end()
    assert guest.wait_end().reason == "callback-error"


def test_answer_that_is_not_an_int_is_an_error(payload: PayloadFactory) -> None:
    guest = payload(assemble(ECHO), start=False)
    guest.vm.on_exit("io", lambda exit: "five")  # type: ignore[arg-type, return-value]
    guest.start()
    with pytest.raises(TypeError, match="'five' is not an answer"):
        guest.wait_end()


def test_blocked_callback_does_not_delay_stop(payload: PayloadFactory) -> None:
    entered, never = threading.Event(), threading.Event()

    def callback(exit: Exit) -> None:
        entered.set()
        never.wait()

    guest = payload(assemble(ECHO), start=False)
    guest.vm.on_exit("io", callback)
    guest.start()
    assert entered.wait(TIMEOUT)
    began = time.monotonic()
    assert number(guest) == 0, "other requests are answered"
    guest.vm.pause()
    guest.stop()
    assert time.monotonic() - began < 4.0
    assert guest.wait_end().reason == "stopped"
    never.set()


def test_introspection_after_the_end_raises_it(payload: PayloadFactory) -> None:
    guest = payload(assemble(POWER_OFF))
    vm = guest.vm
    guest.wait_end()
    for action in (vm.pause, lambda: vm.memory[0:4], lambda: vm.vcpus[0].regs, lambda: vm.exits):
        with pytest.raises(GuestEnded, match="power-off"):
            action()


@pytest.mark.parametrize(
    ("reason", "location", "error"),
    [
        ("coffee", {}, "no exit reason 'coffee'"),
        ("io", {"port": -1}, "port or address -1"),
        ("io", {"address": 1}, "requires"),
        ("shutdown", {"port": 1}, "requires"),
    ],
)
def test_invalid_hook_is_refused(
    payload: PayloadFactory, reason: str, location: dict[str, int], error: str
) -> None:
    guest = payload(assemble(FOR_EVER))
    with pytest.raises((HarnessError, ValueError), match=error):
        guest.vm.on_exit(reason, lambda exit: None, **location)
