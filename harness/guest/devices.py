"""Devices that a test makes of its own: read() and write() run in the test's process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.errors import HarnessError


@dataclass(frozen=True)
class Bar:
    """A range that a PCI function answers. size: bytes, a power of two. io: of ports."""

    size: int
    io: bool = False


class Interrupting:
    """A device that can raise interrupts once it is in a machine."""

    _deliver: Callable[[int], object] | None = None

    def connect_interrupt(self, deliver: Callable[[int], object], /) -> None:
        """See EmulatedDevice."""
        self._deliver = deliver

    def interrupt(self, vector: int = 0) -> None:
        """Interrupt the guest: by a vector of a PCI function, by the line of a port device.
        Raises HarnessError when it has none."""
        if self._deliver is None:
            raise HarnessError(f"{type(self).__name__} is in no machine yet", stage="run")
        self._deliver(vector)


class PortDevice(Interrupting):
    """A device at fixed ports. irq: its interrupt line (0 to 23), None for none."""

    port = 0xD00
    length = 16
    irq: int | None = None

    def read(self, offset: int, size: int) -> int:
        """The value of a read. offset: from the first port. size: 1, 2 or 4 bytes."""
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write."""


class PciDevice(Interrupting):
    """A PCI function. class_code: class, subclass and programming interface, 24 bits.

    bars: in order, from 0; the one after them holds the MSI-X table of `vectors` messages.
    """

    vendor = 0x1234
    device = 0x0001
    class_code = 0xFF0000
    bars: Sequence[Bar] = (Bar(4096),)
    vectors = 1

    def read(self, bar: int, offset: int, size: int) -> int:
        """The value of a read. offset: from the start of the BAR. size: 1, 2, 4 or 8 bytes."""
        return (1 << 8 * size) - 1

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """Take a write."""
