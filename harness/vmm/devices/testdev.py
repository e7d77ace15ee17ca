"""The devices that kvm-unit-tests need: QEMU's pc-testdev and isa-debug-exit.

Source: QEMU's hw/misc/pc-testdev.c and hw/misc/debugexit.c.
"""

from __future__ import annotations

from harness.kvm.errors import MachineEnd
from harness.kvm.vm import Vm

from ..memory import PAGE, Memory
from .bus import Buses, UnclaimedDevice

DEBUG_EXIT = 0xF4
LATCH, FLUSH, LATCH_BYTES = 0xE0, 0xE4, 0xE8
IRQ_LINES, _IRQS = 0x2000, 24
IO_MEMORY, _IO_MEMORY_SIZE = 0xFF00_0000, 0x1_0000


class DebugExit:
    """A write ends the machine. The written value is the end's detail."""

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        raise MachineEnd("debug-exit", str(value))


class ScratchMemory:
    """Bytes that read as they were written."""

    def __init__(self, size: int) -> None:
        self._bytes = bytearray(size)

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self._bytes[offset : offset + size] = value.to_bytes(size, "little")


class FlushPage(UnclaimedDevice):
    """Writing an address makes KVM drop the mapping of that page, as if it was swapped out."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def write(self, offset: int, size: int, value: int) -> None:
        if size == 4:
            self._memory.unmap(value & ~(PAGE - 1))


class IrqLines(UnclaimedDevice):
    """One port per interrupt line. The written value is the line's level."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm

    def write(self, offset: int, size: int, value: int) -> None:
        if size == 1:
            self._vm.set_irq_line(offset, int(value != 0))


def attach(buses: Buses, vm: Vm, memory: Memory) -> None:
    """Put all test devices on the buses."""
    latch = ScratchMemory(4)
    buses.pio.add(DEBUG_EXIT, 4, DebugExit())
    buses.pio.add(LATCH, 4, latch)
    buses.pio.add(LATCH_BYTES, 4, latch)
    buses.pio.add(FLUSH, 4, FlushPage(memory))
    buses.pio.add(IRQ_LINES, _IRQS, IrqLines(vm))
    buses.mmio.add(IO_MEMORY, _IO_MEMORY_SIZE, ScratchMemory(_IO_MEMORY_SIZE))
