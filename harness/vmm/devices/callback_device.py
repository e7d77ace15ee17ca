"""Devices that the controller implements: ranges of ports, PCI functions.

The VMM decodes their addresses and raises their interrupts. Each access becomes a callback.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable

from harness.kvm.vm import Vm, signal_eventfd

from ..int_range import check_int_range
from .bus import Buses
from .msix import Msix
from .pci import BarKind, Function, HostBridge

_MAX_BAR, _MAX_PORTS, _MAX_VECTORS = 16 << 20, 256, 64
_VECTORS_BAR = 0x1000  # bytes: 64 vectors of 16, and their pending bits
_IRQ_LINES = 24

# called with offset=, size=, write=, data=; returns the value of a read
AccessCallback = Callable[..., "int | None"]


class CallbackRange:
    """A range of ports or of memory whose accesses are callbacks."""

    def __init__(self, callback: AccessCallback) -> None:
        self._callback = callback

    def read(self, offset: int, size: int) -> int:
        return self._callback(offset=offset, size=size, write=False) or 0

    def write(self, offset: int, size: int, value: int) -> None:
        self._callback(offset=offset, size=size, write=True, data=value)


def add_port_device(
    vm: Vm, buses: Buses, callback: AccessCallback, *, port: Any, length: Any, irq: Any = None
) -> Callable[[int], None]:
    """Put a device on ports. irq: its interrupt line, None for none. Returns a function that raises
    its interrupt. Raises ValueError for arguments out of range, or ports of another device."""
    check_int_range("length", length, 0x1_0001 - check_int_range("port", port, 1 << 16), 1)
    line = -1 if irq is None else check_int_range("irq", irq, _IRQ_LINES)

    def interrupt(vector: int) -> None:
        if line < 0:
            raise ValueError("the device has no interrupt line: add it with irq=")
        for level in (1, 0):
            vm.set_irq_line(line, level)

    buses.pio.add(port, length, CallbackRange(callback))
    return interrupt


def add_pci_device(
    vm: Vm,
    bridge: HostBridge,
    callback: AccessCallback,
    *,
    vendor: Any,
    device: Any,
    class_code: Any,
    bars: list[Any],
    vectors: Any,
) -> Callable[[int], None]:
    """Put a function on the PCI bus.

    bars: for each BAR its bytes, and whether it is ports. vectors: how many MSI-X vectors; their
    table takes the next BAR. Returns a function that raises an interrupt, by vector. Raises
    ValueError for arguments out of range.
    """
    function = Function(
        check_int_range("vendor", vendor, 0xFFFF),
        check_int_range("device", device, 1 << 16),
        check_int_range("class", class_code, 1 << 24),
    )
    check_int_range("count of vectors", vectors, _MAX_VECTORS + 1)
    check_int_range("count of BARs", len(bars), 6 if vectors else 7)
    for index, (size, io) in enumerate(bars):
        check_int_range(
            "size of a BAR", size, (_MAX_PORTS if io else _MAX_BAR) + 1, 4 if io else 16
        )
        if size & (size - 1):
            raise ValueError(f"size of a BAR: {size} is not a power of two")
        function.add_bar(
            index, BarKind(size, bool(io), CallbackRange(partial(callback, bar=index)))
        )
    eventfds: list[int] = []
    if vectors:
        msix = Msix(vm, function, vectors, len(bars), 0)
        function.add_bar(len(bars), BarKind(_VECTORS_BAR, False, msix))
        function.on_config_write = msix.on_config_write
        eventfds = msix.eventfds
    bridge.add(function)
    return lambda vector: signal_eventfd(eventfds[check_int_range("vector", vector, vectors)])
