"""Devices that a test emulates, in payload guests: ports, PCI functions, interrupts."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from harness.errors import HarnessError, ProvisionError
from harness.guest.devices import Bar, PciDevice, PortDevice
from harness.guest.payload import PayloadFactory, assemble
from tests.vmm.payload import FOR_EVER, HELLO, POWER_OFF
from tests.waiting import TIMEOUT, wait_until

# reads or writes a configuration register of the function in slot 1, with EAX
PCI = """
    .macro pci_read register
    mov $0xcf8, %dx ; mov $(0x80000800 | \\register), %eax ; out %eax, %dx
    mov $0xcfc, %dx ; in %dx, %eax
    .endm
    .macro pci_write register value
    mov $0xcf8, %dx ; mov $(0x80000800 | \\register), %eax ; out %eax, %dx
    mov $0xcfc, %dx ; mov $\\value, %eax ; out %eax, %dx
    .endm
    .macro keep at
    mov %eax, 0x200000 + \\at
    .endm
"""
# an IDT whose vector 0x40 counts at 0x206000; enables the local APIC
INTERRUPTS = """
    .set COUNT, 0x206000 ; .set IDT, 0x207000
    lidt idt_register
    mov $isr, %eax ; movw %ax, IDT + 8 * 0x40 ; movw $8, IDT + 8 * 0x40 + 2
    movw $0x8e00, IDT + 8 * 0x40 + 4 ; shr $16, %eax ; movw %ax, IDT + 8 * 0x40 + 6
    movl $0x1ff, 0xfee000f0
"""
ISR = """
idt_register: .word 0x7ff ; .long IDT
isr: incl COUNT ; movl $0, 0xfee000b0
    push 8(%esp) ; popf ; ret $8         /* like iret, which KVM's emulator may not implement */
"""


class Scratch(PortDevice):
    """A device with a register at each port."""

    irq = 5

    def __init__(self) -> None:
        self.values = dict.fromkeys(range(16), 0)

    def read(self, offset: int, size: int) -> int:
        return self.values[offset] + 1

    def write(self, offset: int, size: int, value: int) -> None:
        self.values[offset] = value


class Adder(PciDevice):
    """A PCI function that adds up writes. A write to its second BAR raises an interrupt."""

    vendor, device, class_code = 0x1AB8, 0x0042, 0x120000
    bars = (Bar(64), Bar(16, io=True))
    vectors = 2

    def __init__(self) -> None:
        self.sum = 0
        self.accesses: list[tuple[int, int]] = []

    def read(self, bar: int, offset: int, size: int) -> int:
        self.accesses.append((bar, offset))
        return self.sum

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        self.accesses.append((bar, offset))
        if bar == 1:
            self.interrupt(value)
        else:
            self.sum += value


def words(vm: Any, count: int) -> list[int]:
    data = vm.memory[0x20_0000 : 0x20_0000 + 4 * count]
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]


def test_port_device_answers(payload: PayloadFactory) -> None:
    source = """
        mov $0xd03, %dx ; mov $41, %eax ; out %eax, %dx ; in %dx, %eax ; mov %eax, 0x200000
    """
    device = Scratch()
    guest = payload(assemble(source + POWER_OFF), devices=[device])
    assert guest.wait_end().reason == "power-off"
    assert device.values[3] == 41


def test_port_device_is_added_to_a_running_guest(payload: PayloadFactory) -> None:
    """Its interrupt line can be pulsed."""

    class Answer:
        def read(self, offset: int, size: int) -> int:
            return 7

        def write(self, offset: int, size: int, value: int) -> None:
            written.set()

    written = threading.Event()
    source = "1: mov $0xe00, %dx ; in %dx, %al ; cmp $7, %al ; jne 1b ; inc %dx ; out %al, %dx\n"
    guest = payload(assemble(source + FOR_EVER))
    assert wait_until(lambda: guest.vm.exits.get("io", 0) > 3)
    pulse = guest.vm.add_port_device(0xE00, 2, Answer(), irq=9)
    assert written.wait(TIMEOUT)
    pulse()


@pytest.mark.parametrize(
    ("port", "length", "irq", "what"),
    [
        (0x3F8, 1, None, "overlaps"),
        (0xCF8, 8, None, "overlaps"),
        (0xFFFF, 2, None, "length 2"),
        (-1, 2, None, "port -1"),
        (0xD00, 0, None, "length 0"),
        (0xD00, 1, 24, "irq 24"),
    ],
)
def test_invalid_ports_are_refused(
    payload: PayloadFactory, port: int, length: int, irq: int | None, what: str
) -> None:
    guest = payload(assemble(FOR_EVER))
    with pytest.raises(HarnessError, match=what):
        guest.vm.add_port_device(port, length, Scratch(), irq=irq)
    pulse = guest.vm.add_port_device(0xD00, 16, Scratch())
    with pytest.raises(HarnessError, match="no interrupt line"):
        pulse()


def test_pci_function_is_enumerated_and_its_bars_answer(payload: PayloadFactory) -> None:
    source = f"""{PCI}
        pci_read 0 ; keep 0 ; pci_read 8 ; keep 4
        pci_write 4 3
        pci_read 0x10 ; keep 8 ; mov %eax, %esi
        movl $30, 4(%esi) ; movl $12, 8(%esi)
        mov 0x20(%esi), %eax ; keep 12
        pci_read 0x14 ; keep 16
        mov %eax, %edx ; and $~1, %edx ; in %dx, %eax ; keep 20
    """
    device = Adder()
    guest = payload(assemble(source + FOR_EVER), devices=[device])
    assert wait_until(lambda: words(guest.vm, 6)[5])
    identity, class_code, bar, total, ports, port_value = words(guest.vm, 6)
    assert (identity, class_code) == (0x0042_1AB8, 0x1200_0001)
    assert (bar >> 28, total, ports & 1, port_value) == (0xC, 42, 1, 42)
    assert device.accesses == [(0, 4), (0, 8), (0, 0x20), (1, 0)]


def test_pci_function_raises_its_vectors(payload: PayloadFactory) -> None:
    """The guest triggers the interrupt by a write to the device."""
    source = f"""{PCI}{INTERRUPTS}
        pci_write 4 7
        pci_write 0x18 0xd0000000
        pci_write 0x40 0x80000000           /* MSI-X on */
        movl $0xfee00000, 0xd0000010 ; movl $0x40, 0xd0000018 ; movl $0, 0xd000001c
        pci_read 0x14 ; mov %eax, %edx ; and $~1, %edx ; mov $1, %eax
        sti
    1:  out %eax, %dx ; jmp 1b
    {ISR}"""
    device = Adder()
    guest = payload(assemble(source), devices=[device])
    assert wait_until(lambda: count(guest.vm) > 2)
    assert (1, 0) in device.accesses


def count(vm: Any) -> int:
    return int.from_bytes(vm.memory[0x20_6000:0x20_6004], "little")


def test_missing_vector_is_an_error(payload: PayloadFactory) -> None:
    device = Adder()
    with pytest.raises(HarnessError, match="not in a machine yet"):
        device.interrupt()
    payload(assemble(FOR_EVER), devices=[device])
    device.interrupt(1)
    with pytest.raises(HarnessError, match="vector 2"):
        device.interrupt(2)


class AnyFunction(PciDevice):
    """A PCI function with arbitrary attributes."""

    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"vendor": 0xFFFF}, "vendor 65535"),
        ({"device": 1 << 16}, "device 65536"),
        ({"class_code": -1}, "class -1"),
        ({"vectors": 65}, "count of vectors 65"),
        ({"bars": [Bar(48)]}, "not a power of two"),
        ({"bars": [Bar(8)]}, "size of a BAR 8"),
        ({"bars": [Bar(32 << 20)]}, "size of a BAR"),
        ({"bars": [Bar(512, io=True)]}, "size of a BAR 512"),
        ({"bars": [Bar(16)] * 6}, "count of BARs 6"),
    ],
    ids=str,
)
def test_invalid_pci_function_is_refused(
    payload: PayloadFactory, fields: dict[str, Any], what: str
) -> None:
    with pytest.raises(HarnessError, match=what):
        payload(assemble(FOR_EVER), devices=[AnyFunction(**fields)])


def test_pci_function_of_a_running_guest_is_refused(payload: PayloadFactory) -> None:
    guest = payload(assemble(FOR_EVER))
    with pytest.raises(HarnessError, match="add PCI devices before"):
        guest.vm.add_device(Adder())


def test_exception_in_a_device_ends_the_guest_and_is_raised(payload: PayloadFactory) -> None:
    class Broken(PortDevice):
        def read(self, offset: int, size: int) -> int:
            raise LookupError("no such register")

    guest = payload(assemble("mov $0xd00, %dx ; in %dx, %al\n" + FOR_EVER), devices=[Broken()])
    assert guest.ended.wait(TIMEOUT)
    with pytest.raises(LookupError, match="no such register"):
        guest.vm.pause()
    assert guest.wait_end().reason == "callback-error"


def test_devices_of_two_guests_are_separate(payload: PayloadFactory) -> None:
    source = "mov $0xd00, %dx ; in %dx, %eax ; out %eax, %dx\n"
    devices = [Scratch(), Scratch()]
    devices[1].values[0] = 10
    guests = [payload(assemble(source + HELLO + FOR_EVER), devices=[one]) for one in devices]
    for guest in guests:
        guest.console.wait_for("hi", TIMEOUT)
    assert [one.values[0] for one in devices] == [1, 11]


def test_too_many_pci_functions_are_refused(payload: PayloadFactory) -> None:
    with pytest.raises((HarnessError, ProvisionError), match="32 slots"):
        payload(assemble(FOR_EVER), devices=[Adder() for _ in range(32)])
