"""Power-off and reset: ACPI's PM1 blocks (ACPI 6.4, 4.8.3), port 0xCF9, the 8042's reset pulse."""

from __future__ import annotations

from typing import ClassVar

from harness.kvm.errors import MachineEnd

from .bus import Buses

PM1_EVENT, PM1_CONTROL = 0x600, 0x604
RESET_CONTROL, RESET_VALUE = 0xCF9, 6
SLEEP_TYPE_OFF = 5
_I8042_COMMAND, _I8042_PULSE_RESET = 0x64, 0xFE
_SCI_ENABLED = 1
_SLEEP = 0xF << 10  # SLP_EN and SLP_TYP
_SLEEP_OFF = 1 << 13 | SLEEP_TYPE_OFF << 10


class Pm1:
    """PM1a event block (4 bytes) and control block (2 bytes). Only power-off has an effect."""

    STATE: ClassVar = {"_enable": 1 << 32}

    def __init__(self) -> None:
        self._enable = 0

    def read(self, offset: int, size: int) -> int:
        if offset == 2:
            return self._enable
        return _SCI_ENABLED if offset == PM1_CONTROL - PM1_EVENT else 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 2:
            self._enable = value
        elif offset == PM1_CONTROL - PM1_EVENT and value & _SLEEP == _SLEEP_OFF:
            raise MachineEnd("power-off")


class I8042:
    """The keyboard controller's reset pulse, which kernels try. There is no keyboard."""

    def read(self, offset: int, size: int) -> int:
        return 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        if value == _I8042_PULSE_RESET:
            raise MachineEnd("reset", "8042 pulse")


def reset_control(value: int) -> None:
    """Handle a write to port 0xCF9: bit 2 resets the machine."""
    if value & 4:
        raise MachineEnd("reset", "port 0xcf9")


def attach(buses: Buses) -> Pm1:
    """Put both devices on the port bus. Returns the PM1 block, which has state."""
    pm1 = Pm1()
    buses.pio.add(PM1_EVENT, 6, pm1)
    buses.pio.add(_I8042_COMMAND, 1, I8042())
    return pm1
