"""The test devices and the firmware configuration device, used by payloads."""

from __future__ import annotations

from typing import Any

import pytest

from harness.vmm.boot import acpi
from harness.vmm.devices.fwcfg import FirmwareConfig
from tests.vmm.guests import Runner
from tests.vmm.payload import FOR_EVER, HELLO, POWER_OFF

EXIT = "\n    mov $0xf4, %dx ; mov ${}, %eax ; out %eax, %dx\n"
FAIL = "\n9:" + EXIT.format(1) + "8: hlt ; jmp 8b"


def run_payload(run: Runner, source: str, **arguments: Any) -> None:
    """Run a payload that powers off unless it jumps to 9."""
    guest = run(source + EXIT.format(0) + FAIL, testdev=True, **arguments)
    assert (guest.end().reason, guest.end().detail) == ("debug-exit", "0")


@pytest.mark.parametrize("code", [0, 1, 38, 127, 0xFFFF_FFFF])
def test_debug_exit_reports_its_code(run: Runner, code: int) -> None:
    guest = run(HELLO + EXIT.format(code) + FOR_EVER, testdev=True)
    assert (guest.end().reason, guest.end().detail) == ("debug-exit", str(code))
    assert guest.lines == ["hi"]


def test_debug_exit_accepts_a_byte(run: Runner) -> None:
    guest = run("mov $0x25, %al ; out %al, $0xf4" + "\n" + FOR_EVER, testdev=True)
    assert guest.end().detail == str(0x25)


def test_devices_are_absent_by_default(run: Runner) -> None:
    """Their ports read all ones; a write to the debug exit has no effect."""
    source = EXIT.format(0)
    for port in (0xE0, 0xE8, 0x2000, 0x510, 0x511):
        source += f"mov ${port}, %dx ; in %dx, %al ; cmp $0xff, %al ; jne 9f\n"
    source += "mov 0xff000000, %eax ; cmp $-1, %eax ; jne 9f\n"
    assert run(source + POWER_OFF + "9: hlt").end().reason == "power-off"


def test_latch_keeps_values_of_every_width(run: Runner) -> None:
    run_payload(
        run,
        """
        mov $0x12345678, %eax ; out %eax, $0xe0
        xor %eax, %eax ; in $0xe0, %eax ; cmp $0x12345678, %eax ; jne 9f
        mov $0xab, %al ; out %al, $0xe1
        in $0xe0, %eax ; cmp $0x1234ab78, %eax ; jne 9f
        in $0xe8, %eax ; cmp $0x1234ab78, %eax ; jne 9f
        in $0xe2, %ax ; cmp $0x1234, %ax ; jne 9f
        """,
    )


def test_io_memory_reads_back(run: Runner) -> None:
    run_payload(
        run,
        """
        movl $0xcafe, 0xff000000 ; movb $7, 0xff00ffff
        cmpl $0xcafe, 0xff000000 ; jne 9f
        cmpb $7, 0xff00ffff ; jne 9f
        cmpl $0, 0xff000004 ; jne 9f
        """,
    )


def test_flushed_page_keeps_its_contents(run: Runner) -> None:
    run_payload(
        run,
        """
        movl $0xcafe, 0x200010
        mov $0x200010, %eax ; out %eax, $0xe4
        cmpl $0xcafe, 0x200010 ; jne 9f
        movl $1, 0x200010 ; cmpl $1, 0x200010 ; jne 9f
        """,
    )


def test_flush_outside_memory_is_a_guest_fault(run: Runner) -> None:
    source = "mov $0x7ffff000, %eax ; out %eax, $0xe4\n"
    end = run(source + FOR_EVER, testdev=True).end()
    assert end.reason == "guest-fault"
    assert "0x7ffff000" in end.detail


def test_interrupt_line_follows_its_port(run: Runner) -> None:
    """The first PIC's request register shows the level of line 5."""
    pic = "mov $0x11, %al ; out %al, $0x20 ; mov $0x20, %al ; out %al, $0x21\n"
    pic += "mov $4, %al ; out %al, $0x21 ; mov $1, %al ; out %al, $0x21\n"
    pic += "mov $0xff, %al ; out %al, $0x21\n"
    line = "mov $0x2005, %dx ; mov ${}, %al ; out %al, %dx\n"
    look = "mov $0xa, %al ; out %al, $0x20 ; in $0x20, %al ; test $0x20, %al\n"
    source = pic + look + "jnz 9f\n" + line.format(1) + look + "jz 9f\n"
    run_payload(run, source)


def test_firmware_configuration_reads_by_ports(run: Runner) -> None:
    """The signature, then the number of CPUs and the memory, as kvm-unit-tests read them."""
    select = "mov $0x510, %dx ; mov ${}, %ax ; out %ax, %dx ; inc %dx\n"
    byte = "in %dx, %al ; cmp ${}, %al ; jne 9f\n"
    source = select.format(0) + "".join(byte.format(value) for value in b"QEMU\0")
    source += select.format(5) + byte.format(2) + byte.format(0)
    source += select.format(3) + "".join(byte.format(value) for value in (0, 0, 0, 4, 0, 0, 0, 0))
    run_payload(run, source, vcpus=2, memory=64)


def test_unknown_firmware_configuration_item_reads_zero() -> None:
    device = FirmwareConfig(64 << 20, 3)
    assert device.read(1, 1) == 0, "nothing is selected yet"
    device.write(0, 2, 0x7FFF)
    assert device.read(1, 1) == 0
    device.write(0, 2, 15)
    assert [device.read(1, 1) for _ in range(3)] == [3, 0, 0]
    device.write(1, 1, 0)
    device.write(0, 1, 0)
    assert device.read(1, 1) == 0, "nothing but a word to the selector selects"
    device.write(0, 2, 0)
    assert (device.read(1, 1), device.read(0, 2), device.read(1, 1)) == (ord("Q"), 0, ord("E"))


def test_acpi_tables_are_where_kvm_unit_tests_search(run: Runner) -> None:
    """The RSDP at its address, and the RSDT that it points to."""
    run_payload(
        run,
        f"""
        cmpl $0x20445352, {acpi.BASE:#x} ; jne 9f
        mov {acpi.BASE + 16:#x}, %eax ; cmpl $0x54445352, (%eax) ; jne 9f
        mov 36(%eax), %eax ; cmpl $0x50434146, (%eax) ; jne 9f
        """,
    )
