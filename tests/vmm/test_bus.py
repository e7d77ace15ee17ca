"""The bus finds the device at an address; a few ports end the machine."""

from __future__ import annotations

import pytest

from harness.kvm.errors import MachineEnd
from harness.vmm.devices import power
from harness.vmm.devices.bus import Bus, Buses

OFF = 1 << 13 | power.SLEEP_TYPE_OFF << 10


class Ram:
    """A device with memory."""

    def __init__(self) -> None:
        self.cells: dict[int, int] = {}

    def read(self, offset: int, size: int) -> int:
        return self.cells.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        self.cells[offset] = value


@pytest.mark.parametrize(
    ("start", "length"), [(0xFC, 8), (0x100, 8), (0x107, 1), (0xFF, 2), (0x104, 2), (0, 0x1000)]
)
def test_overlapping_ranges_are_refused(start: int, length: int) -> None:
    bus = Bus()
    bus.add(0x100, 8, Ram())
    bus.add(0x200, 8, Ram())
    with pytest.raises(ValueError, match="overlaps"):
        bus.add(start, length, Ram())


def test_lookup_is_independent_of_the_order_of_adding() -> None:
    bus, devices = Bus(), {start: Ram() for start in (0x300, 0x100, 0x108, 0x0F8, 0x200)}
    for start, device in devices.items():
        bus.add(start, 8, device)
    for start, device in devices.items():
        bus.write(start + 7, 1, start & 0xFF)
        assert device.cells == {7: start & 0xFF}
        assert bus.read(start + 7, 1) == start & 0xFF


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_unclaimed_addresses_read_all_ones_and_drop_writes(size: int) -> None:
    bus, device = Bus(), Ram()
    ones = (1 << 8 * size) - 1
    assert bus.read(0, size) == ones
    bus.add(0x100, 8, device)
    for address in (0x0, 0x100 - size, 0x108, 0x108 - size + 1, 1 << 63):
        assert bus.read(address, size) == ones
        bus.write(address, size, 0)
    assert device.cells == {}


def test_removed_range_is_unclaimed() -> None:
    bus = Bus()
    bus.add(0x100, 8, Ram())
    bus.remove(0x100)
    assert bus.read(0x100, 1) == 0xFF
    bus.add(0x104, 8, Ram())
    assert bus.read(0x104, 1) == 0


def test_read_value_is_masked_to_the_width() -> None:
    bus, device = Bus(), Ram()
    device.cells = {0: 0x1_2345_6789}
    bus.add(0, 8, device)
    assert [bus.read(0, size) for size in (1, 2, 4)] == [0x89, 0x6789, 0x2345_6789]


@pytest.fixture
def buses() -> Buses:
    both = Buses()
    power.attach(both)
    return both


def test_sleep_control_powers_off(buses: Buses) -> None:
    for value in (1 << 13, 4 << 10 | 1 << 13, 5 << 10, 0, 1):
        buses.pio.write(power.PM1_CONTROL, 2, value)
    with pytest.raises(MachineEnd) as end:
        buses.pio.write(power.PM1_CONTROL, 2, OFF | 1)
    assert end.value.reason == "power-off"


def test_acpi_is_enabled_and_has_no_events(buses: Buses) -> None:
    assert buses.pio.read(power.PM1_CONTROL, 2) == 1
    buses.pio.write(power.PM1_EVENT + 2, 2, 0x120)
    assert buses.pio.read(power.PM1_EVENT + 2, 2) == 0x120
    buses.pio.write(power.PM1_EVENT, 2, 0xFFFF)
    assert buses.pio.read(power.PM1_EVENT, 2) == 0


def test_keyboard_controller_only_resets(buses: Buses) -> None:
    assert buses.pio.read(0x64, 1) == 0xFF
    buses.pio.write(0x64, 1, 0xD1)
    with pytest.raises(MachineEnd, match="8042"):
        buses.pio.write(0x64, 1, 0xFE)
