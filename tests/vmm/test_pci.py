"""The PCI bridge and its functions as a driver uses them: by ports 0xCF8 and 0xCFC, or by ECAM."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from typing import cast

import pytest

from harness.kvm.errors import MachineEnd
from harness.kvm.vm import Vm
from harness.vmm.devices import power
from harness.vmm.devices.pci import (
    ECAM_SIZE,
    ECAM_START,
    IO_START,
    MMIO_SIZE,
    MMIO_START,
    Function,
    unclaimed_config_space,
)
from harness.vmm.memory import Memory
from tests.vmm.fakes import Board, FakeBackend

MEMORY = Memory(1 << 20)
COMMAND, BAR0, BAR2 = 0x04, 0x10, 0x18


class Driver:
    """A driver on a board with two virtio devices in slots 1 and 2."""

    def __init__(self) -> None:
        self.board = Board(MEMORY, FakeBackend(), FakeBackend())
        self.pio, self.mmio = self.board.buses.pio, self.board.buses.mmio

    def select(self, register: int, slot: int = 1, extra: int = 0) -> None:
        self.pio.write(0xCF8, 4, 0x8000_0000 | extra | slot << 11 | register & 0xFC)

    def read(self, register: int, size: int = 4, slot: int = 1, extra: int = 0) -> int:
        self.select(register, slot, extra)
        return self.pio.read(0xCFC + (register & 3), size)

    def write(
        self, register: int, value: int, size: int = 4, slot: int = 1, extra: int = 0
    ) -> None:
        self.select(register, slot, extra)
        self.pio.write(0xCFC + (register & 3), size, value)


class MemoryDriver(Driver):
    """A driver that reads configuration space from the memslot, as a guest does without an exit."""

    def __init__(self) -> None:
        super().__init__()
        self.board.bridge.enable_ecam(cast(Vm, self.board.vm))
        ((start, (size, hva)),) = self.board.vm.readonly.items()
        assert (start, size) == (ECAM_START, ECAM_SIZE)
        self.space = memoryview((ctypes.c_ubyte * size).from_address(hva)).cast("B")

    @staticmethod
    def at(register: int, slot: int, extra: int = 0) -> int:
        return slot << 15 | extra << 4 | register

    def read(self, register: int, size: int = 4, slot: int = 1, extra: int = 0) -> int:
        at = self.at(register, slot, extra)
        value = int.from_bytes(self.space[at : at + size], "little")
        assert self.mmio.read(ECAM_START + at, size) == value, "by an exit it would be the same"
        return value

    def write(
        self, register: int, value: int, size: int = 4, slot: int = 1, extra: int = 0
    ) -> None:
        self.mmio.write(ECAM_START + self.at(register, slot, extra), size, value)


@pytest.fixture(params=[Driver, MemoryDriver], ids=["ports", "memory"])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    new_driver: Driver = request.param()
    yield new_driver
    new_driver.board.close()


@pytest.fixture
def by_ports() -> Iterator[Driver]:
    new_driver = Driver()
    yield new_driver
    new_driver.board.close()


@pytest.fixture
def by_memory() -> Iterator[MemoryDriver]:
    new_driver = MemoryDriver()
    yield new_driver
    new_driver.board.close()


def test_ports_are_unclaimed_if_ecam_is_enabled(
    by_memory: MemoryDriver,
) -> None:
    by_memory.pio.write(0xCF8, 4, 0x8000_0000)
    assert by_memory.pio.read(0xCF8, 4) == 0xFFFF_FFFF
    assert by_memory.pio.read(0xCFC, 4) == 0xFFFF_FFFF


def test_function_added_after_ecam_is_mapped(by_memory: MemoryDriver) -> None:
    assert by_memory.read(0, slot=3) == 0xFFFF_FFFF
    by_memory.board.bridge.add(Function(0x1AF4, 0x1042, 0x018000))
    assert by_memory.read(0, slot=3) == 0x1042_1AF4


@pytest.mark.parametrize("at", [0x8000 - 8, 0x8100, 0x8104, 0x9000, 0x9004, 0xF_8004, 0xF_FFF8])
def test_ecam_writes_outside_registers_are_dropped(by_memory: MemoryDriver, at: int) -> None:
    """In another function, in extended space, in a slot without a function."""
    before = bytes(by_memory.space)
    for size in (1, 2, 4, 8):
        by_memory.mmio.write(ECAM_START + at, size, (1 << 8 * size) - 1)
    by_memory.mmio.write(ECAM_START + ECAM_SIZE - 1, 4, 0)
    assert bytes(by_memory.space) == before


def test_8_byte_access_covers_two_registers(by_memory: MemoryDriver) -> None:
    by_memory.write(BAR0, 0xFFFF_FFFF_FFFF_FFFF, 8)
    assert (by_memory.read(BAR0), by_memory.read(BAR0 + 4)) == (0xFFFF_C000, 0)


def test_shared_unclaimed_space_is_sealed() -> None:
    space = unclaimed_config_space()
    with pytest.raises(PermissionError):
        os.pwrite(space, b"x", 0)
    with pytest.raises(PermissionError):
        os.truncate(space, 1)


def test_ecam_is_private_to_each_machine(by_memory: MemoryDriver) -> None:
    other = MemoryDriver()
    other.board.bridge.add(Function(0x1AF4, 0x1042, 0x018000))
    other.write(COMMAND, 3, 2)
    assert by_memory.read(0, slot=3) == 0xFFFF_FFFF
    assert by_memory.read(COMMAND, 2) == 0
    other.board.close()


def test_address_register_is_32_bits_and_reads_back(by_ports: Driver) -> None:
    """Linux detects mechanism #1 this way."""
    by_ports.pio.write(0xCF8, 4, 0x8000_0000)
    assert by_ports.pio.read(0xCF8, 4) == 0x8000_0000
    by_ports.pio.write(0xCF8, 2, 0x1234)
    by_ports.pio.write(0xCFB, 1, 0x01)
    assert by_ports.pio.read(0xCF8, 4) == 0x8000_0000
    assert by_ports.pio.read(0xCF8, 2) == 0xFFFF


def test_all_widths_and_offsets_read_the_same_bytes(driver: Driver) -> None:
    whole = b"".join(driver.read(at).to_bytes(4, "little") for at in range(0, 256, 4))
    assert whole == bytes(driver.board.devices[0].function.config)
    for at in range(256):
        assert driver.read(at, 1) == whole[at]
    for at in range(0, 256, 2):
        assert driver.read(at, 2) == int.from_bytes(whole[at : at + 2], "little")


@pytest.mark.parametrize(
    ("slot", "extra"),
    [(3, 0), (31, 0), (1, 1 << 8), (1, 7 << 8)],
    ids=["slot 3", "slot 31", "function 1", "function 7"],
)
def test_absent_functions_read_all_ones(driver: Driver, slot: int, extra: int) -> None:
    for size in (1, 2, 4):
        assert driver.read(0, size, slot, extra) == (1 << 8 * size) - 1
    driver.write(0, 0, slot=slot, extra=extra)  # writes are dropped


@pytest.mark.parametrize("bus", [1, 255])
def test_other_buses_read_all_ones(by_ports: Driver, bus: int) -> None:
    for size in (1, 2, 4):
        assert by_ports.read(0, size, extra=bus << 16) == (1 << 8 * size) - 1
    by_ports.write(0, 0, extra=bus << 16)


def test_address_without_the_enable_bit_reads_all_ones(by_ports: Driver) -> None:
    by_ports.pio.write(0xCF8, 4, 1 << 11)
    assert by_ports.pio.read(0xCFC, 4) == 0xFFFF_FFFF


def test_accesses_across_both_ports_are_unclaimed(by_ports: Driver) -> None:
    by_ports.select(0)
    assert by_ports.pio.read(0xCFA, 4) == 0xFFFF_FFFF
    assert by_ports.pio.read(0xCFE, 4) == 0xFFFF_FFFF


def test_writable_registers_are_command_bars_and_interrupt_line(driver: Driver) -> None:
    function = driver.board.devices[0].function
    before = bytes(function.config)
    for at in range(0, 256, 4):
        driver.write(at, 0xFFFF_FFFF)
    changed = {at for at in range(256) if function.config[at] != before[at]}
    message_control = before.index(bytes([0x11, 0])) + 3
    assert changed <= {4, 5, *range(0x10, 0x14), *range(0x18, 0x1C), 0x3C, message_control}
    assert bytes(function.config[4:6]) == b"\x07\x04"


def test_bars_are_aligned_and_disjoint_initially(driver: Driver) -> None:
    memory = [driver.read(BAR0, slot=slot) for slot in (1, 2)]
    ports = [driver.read(BAR2, slot=slot) & ~3 for slot in (1, 2)]
    assert memory == [MMIO_START, MMIO_START + 0x4000]
    assert ports == [IO_START, IO_START + 0x10]
    assert driver.read(BAR2) & 3 == 1


@pytest.mark.parametrize("size", [1, 2, 4])
def test_bar_sizing_works_in_any_width(driver: Driver, size: int) -> None:
    for bar, mask in ((BAR0, 0xFFFF_C000), (BAR2, 0xFFFF_FFF1)):
        for at in range(0, 4, size):
            driver.write(bar + at, (1 << 8 * size) - 1, size)
        assert driver.read(bar) == mask
        for at in range(0, 4, size):
            driver.write(bar + at, 0, size)
        assert driver.read(bar) == mask & 1


def test_absent_bars_read_zero(driver: Driver) -> None:
    for bar in (0x14, 0x1C, 0x20, 0x24, 0x30):
        driver.write(bar, 0xFFFF_FFFF)
        assert driver.read(bar) == 0


def test_command_register_enables_decoding_by_kind(driver: Driver) -> None:
    device_id = MMIO_START + 0x2004

    def answers() -> tuple[bool, bool]:
        return (
            driver.mmio.read(device_id, 4) == 0x0706_0504,
            driver.pio.read(IO_START, 2) == 0,
        )

    assert answers() == (False, False)
    for command, expected in ((2, (True, False)), (1, (False, True)), (3, (True, True))):
        driver.write(COMMAND, command, 2)
        assert answers() == expected
    driver.write(COMMAND, 0, 2)
    assert answers() == (False, False)


def test_bar_moves_while_enabled(driver: Driver) -> None:
    driver.write(COMMAND, 3, 2)
    driver.write(BAR0, MMIO_START + MMIO_SIZE - 0x4000)
    assert driver.mmio.read(MMIO_START + 0x2004, 4) == 0xFFFF_FFFF
    assert driver.mmio.read(MMIO_START + MMIO_SIZE - 0x4000 + 0x2004, 4) == 0x0706_0504
    driver.write(BAR0, MMIO_START + MMIO_SIZE)  # outside the bridge's window
    assert driver.mmio.read(MMIO_START + MMIO_SIZE + 0x2004, 4) == 0xFFFF_FFFF
    driver.write(BAR0, MMIO_START)
    assert driver.mmio.read(MMIO_START + 0x2004, 4) == 0x0706_0504


def test_ioeventfds_follow_the_notify_ports(driver: Driver) -> None:
    events = driver.board.vm.ioeventfds
    assert events == {}
    driver.write(COMMAND, 3, 2)
    assert set(events) == {IO_START, IO_START + 2}
    kicks = list(events.values())
    driver.write(BAR2, 0x2000)
    assert events == {0x2000: kicks[0], 0x2002: kicks[1]}
    driver.write(COMMAND, 2, 2)
    assert events == {}


def test_first_of_two_bars_at_one_address_is_mapped(driver: Driver) -> None:
    for slot in (1, 2):
        driver.write(COMMAND, 3, 2, slot=slot)
    driver.write(BAR2, IO_START, slot=2)
    assert set(driver.board.vm.ioeventfds) == {IO_START, IO_START + 2}
    driver.write(BAR2, 0x2000, slot=1)
    driver.write(COMMAND, 3, 2, slot=2)  # the address is free now
    assert set(driver.board.vm.ioeventfds) == {0x2000, 0x2002, IO_START, IO_START + 2}


def test_capability_list_ends_and_does_not_overlap(driver: Driver) -> None:
    assert driver.read(0x06, 2) & 0x10
    at, capabilities, used = driver.read(0x34, 1), [], set(range(0x40))
    while at:
        assert at % 4 == 0
        kind = driver.read(at, 1)
        length = 12 if kind == 0x11 else driver.read(at + 2, 1)
        assert not used & set(range(at, at + length))
        used |= set(range(at, at + length))
        capabilities.append((kind, at))
        at = driver.read(at + 1, 1)
    assert max(used) < 256
    assert [kind for kind, _ in capabilities] == [9, 9, 9, 9, 0x11]
    assert [driver.read(at + 3, 1) for kind, at in capabilities if kind == 9] == [1, 2, 3, 4]


def test_virtio_capabilities_point_into_existing_bars(driver: Driver) -> None:
    at = driver.read(0x34, 1)
    sizes = {0: 0x4000, 2: 16}
    while driver.read(at, 1) == 9:
        bar, offset, length = (
            driver.read(at + 4, 1),
            driver.read(at + 8),
            driver.read(at + 12),
        )
        assert length > 0
        assert offset + length <= sizes[bar]
        assert offset % 4 == 0
        at = driver.read(at + 1, 1)


def test_bus_has_32_slots(driver: Driver) -> None:
    bridge = driver.board.bridge
    slots = [bridge.add(Function(0x1AF4, 0x1042, 0x018000)) for _ in range(29)]
    assert slots == list(range(3, 32))
    with pytest.raises(ValueError, match="32 slots"):
        bridge.add(Function(0x1AF4, 0x1042, 0x018000))


@pytest.mark.parametrize(("value", "resets"), [(6, True), (4, True), (2, False), (0, False)])
def test_reset_control_accepts_bytes_only(driver: Driver, value: int, resets: bool) -> None:
    driver.board.bridge.on_reset_control = power.reset_control
    for size in (2, 4):
        driver.pio.write(0xCF9, size, value)
    if resets:
        with pytest.raises(MachineEnd, match="reset"):
            driver.pio.write(0xCF9, 1, value)
    else:
        driver.pio.write(0xCF9, 1, value)
