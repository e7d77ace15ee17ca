"""Devices that a test emulates: read() and write() run in the test's process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.errors import HarnessError


@dataclass(frozen=True)
class Bar:
    """A base address register (BAR). size: bytes, a power of two. io: I/O ports, not memory."""

    size: int
    io: bool = False


class InterruptSource:
    """A device that can interrupt the guest once a machine contains it."""

    _deliver: Callable[[int], object] | None = None

    def connect_interrupt(self, deliver: Callable[[int], object], /) -> None:
        """See EmulatedDevice."""
        self._deliver = deliver

    def interrupt(self, vector: int = 0) -> None:
        """Interrupt the guest by a PCI function's MSI-X vector or by a port device's line.

        Raises HarnessError when the device has no interrupt.
        """
        if self._deliver is None:
            raise HarnessError(
                f"the device {type(self).__name__} is not in a machine yet",
                hint="pass it to a guest in devices=[...]",
                stage="run",
            )
        self._deliver(vector)


class PortDevice(InterruptSource):
    """A device at fixed I/O ports.

    port, length: the first port and their number. irq: its interrupt line (0 to 23), or None.
    """

    port = 0xD00
    length = 16
    irq: int | None = None

    def read(self, offset: int, size: int) -> int:
        """Answer a read. offset: from the first port. size: 1, 2 or 4 bytes."""
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Handle a write; the arguments are those of read()."""


class PciDevice(InterruptSource):
    """A PCI function with memory or port BARs and MSI-X.

    class_code: class, subclass and programming interface, 24 bits. bars: from BAR 0 on; the next
    BAR holds the MSI-X table with `vectors` entries.
    """

    vendor = 0x1234
    device = 0x0001
    class_code = 0xFF0000
    bars: Sequence[Bar] = (Bar(4096),)
    vectors = 1

    def read(self, bar: int, offset: int, size: int) -> int:
        """Answer a read. offset: from the start of the BAR. size: 1, 2, 4 or 8 bytes."""
        return (1 << 8 * size) - 1

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """Handle a write; the arguments are those of read()."""
