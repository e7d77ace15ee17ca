"""Virtio over PCI and MSI-X as a driver uses them, through the memory BAR."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator

import pytest

from harness.kvm.errors import GuestFault
from harness.vmm.devices.pci import IO_START
from harness.vmm.devices.virtio.transport import F_EVENT_INDEX
from harness.vmm.memory import Memory
from tests.vmm.fakes import RING, Board, FakeBackend

MEMORY = Memory(1 << 20)
DEVICE_SELECT, FEATURES, DRIVER_SELECT, ACCEPT = 0, 4, 8, 12
CONFIG_VECTOR, QUEUES, STATUS, QUEUE = 16, 18, 20, 22
SIZE, VECTOR, ENABLE, NOTIFY_OFF = 24, 26, 28, 30
DESCRIPTORS, AVAILABLE, USED = 32, 40, 48
CONFIG, TABLE = 0x2000, 0x3000
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, FAILED = 1, 2, 4, 8, 128
MSIX_CONTROL_ENABLE, MSIX_CONTROL_MASK = 0x8000, 0x4000
NONE = 0xFFFF
WIDTHS = {STATUS: 1, **dict.fromkeys((16, 18, 22, 24, 26, 28, 30), 2)}


class Driver:
    """A driver of one device."""

    def __init__(self) -> None:
        self.backend = FakeBackend()
        self.board = Board(MEMORY, self.backend)
        self.vm = self.board.vm
        self.device = self.board.devices[0]
        self.function = self.device.function
        self.function.write_config(4, 2, 3)

    def read(self, register: int, size: int = 0) -> int:
        size = size or WIDTHS.get(register, 4)
        address = self.function.bar_address(0)
        assert address is not None
        return self.board.buses.mmio.read(address + register, size)

    def write(self, register: int, value: int, size: int = 0) -> None:
        size = size or WIDTHS.get(register, 4)
        address = self.function.bar_address(0)
        assert address is not None
        self.board.buses.mmio.write(address + register, size, value)

    def status(self, *bits: int) -> int:
        """Set status bits one after the other. Returns the status that reads back."""
        for bit in bits:
            self.write(STATUS, self.read(STATUS) | bit)
        return self.read(STATUS)

    def accept(self, features: int) -> None:
        for window in (0, 1):
            self.write(DRIVER_SELECT, window)
            self.write(ACCEPT, features >> (32 * window) & 0xFFFF_FFFF)

    def offered(self) -> int:
        features = 0
        for window in (0, 1):
            self.write(DEVICE_SELECT, window)
            features |= self.read(FEATURES) << (32 * window)
        return features

    def set_up_queue(self, number: int, vector: int = NONE, size: int = 8) -> None:
        self.write(QUEUE, number)
        self.write(SIZE, size)
        self.write(VECTOR, vector)
        for register, address in zip((DESCRIPTORS, AVAILABLE, USED), RING[1:], strict=True):
            self.write(register, address + number * 0x10000)
            self.write(register + 4, 0)
        self.write(ENABLE, 1)

    def start(self, features: int = 0) -> None:
        """features: 0 for all that the device offers."""
        self.status(ACKNOWLEDGE, DRIVER)
        self.accept(features or self.offered())
        self.status(FEATURES_OK)
        self.set_up_queue(0, vector=1)
        self.status(DRIVER_OK)

    def message_control(self, value: int) -> None:
        capability = self.device._msix._capability
        self.function.write_config(capability + 2, 2, value)

    def entry(self, vector: int, address: int, data: int, masked: bool) -> None:
        for at, value in enumerate((address & 0xFFFF_FFFF, address >> 32, data, int(masked))):
            self.write(TABLE + 16 * vector + 4 * at, value)

    def live(self) -> set[int]:
        """The vectors that KVM would inject."""
        fds = self.device._msix.eventfds
        return {fds.index(fd) for fd in self.vm.irqfds}


@pytest.fixture
def driver() -> Iterator[Driver]:
    new_driver = Driver()
    yield new_driver
    new_driver.board.close()


# negotiation and status


def test_initial_registers(driver: Driver) -> None:
    assert driver.read(STATUS) == 0
    assert driver.read(QUEUES) == 2
    assert driver.read(CONFIG_VECTOR) == NONE
    assert driver.offered() == 0b101 | 1 << 32
    driver.write(DEVICE_SELECT, 2)
    assert driver.read(FEATURES) == 0
    assert driver.read(21, 1) == 0  # config_generation: the configuration never changes


def test_negotiation_starts_the_backend(driver: Driver) -> None:
    driver.start()
    assert driver.read(STATUS) == 15
    assert driver.backend.accepted == driver.offered()
    assert driver.backend.started is not None
    (started,) = driver.backend.started
    assert (started.number, started.ring) == (0, RING)
    assert started.call == driver.device._msix.eventfds[1]


@pytest.mark.parametrize(
    "accepted",
    [0, 0b101, 1 << 32 | 0b10, 1 << 33 | 1 << 32, 1 << 63 | 1 << 32],
    ids=["nothing", "no VERSION_1", "bit 1", "bit 33", "bit 63"],
)
def test_unsupported_features_are_refused(driver: Driver, accepted: int) -> None:
    driver.status(ACKNOWLEDGE, DRIVER)
    driver.accept(accepted)
    assert driver.status(FEATURES_OK) == 3
    assert driver.status(DRIVER_OK) & FEATURES_OK == 0
    assert driver.backend.log == []
    driver.write(STATUS, 0)
    driver.start()  # the driver tries again with supported features
    assert driver.backend.log == ["start"]


def test_features_are_fixed_after_features_ok(driver: Driver) -> None:
    driver.status(ACKNOWLEDGE, DRIVER)
    driver.accept(1 << 32)
    driver.status(FEATURES_OK)
    driver.accept((1 << 64) - 1)
    driver.status(DRIVER_OK)
    assert driver.backend.accepted == 1 << 32


def test_reset_clears_the_device_and_it_starts_again(driver: Driver) -> None:
    driver.start()
    driver.write(STATUS, 0)
    assert driver.backend.log == ["start", "stop"]
    assert driver.read(STATUS) == 0
    assert driver.read(CONFIG_VECTOR) == NONE
    driver.write(QUEUE, 0)
    registers = (SIZE, VECTOR, ENABLE, DESCRIPTORS, AVAILABLE, USED)
    assert [driver.read(at) for at in registers] == [256, NONE, 0, 0, 0, 0]
    driver.write(STATUS, 0)  # a reset of a stopped device has no effect
    driver.start()
    assert driver.backend.log == ["start", "stop", "start"]


def test_clearing_status_bits_without_a_reset_raises_guest_fault(driver: Driver) -> None:
    driver.start()
    with pytest.raises(GuestFault, match="fake"):
        driver.write(STATUS, 3)
    assert driver.backend.log == ["start"]


def test_failed_status_does_not_start_the_device(driver: Driver) -> None:
    assert driver.status(ACKNOWLEDGE, FAILED) == 0x81


# queues


def test_queue_registers_read_back_in_any_width(driver: Driver) -> None:
    for number in (0, 1):
        driver.write(QUEUE, number)
        assert driver.read(NOTIFY_OFF) == number
        driver.write(SIZE, 16 << number)
        driver.write(DESCRIPTORS, 0x1122_3344_5566_7788 + number, 8)
        for at, byte in enumerate(b"12345678"):
            driver.write(AVAILABLE + at, byte, 1)
        driver.write(USED + 4, 7)
    for number in (0, 1):
        driver.write(QUEUE, number)
        assert driver.read(SIZE) == 16 << number
        assert driver.read(DESCRIPTORS, 8) == 0x1122_3344_5566_7788 + number
        assert driver.read(DESCRIPTORS + 4) == 0x1122_3344
        assert driver.read(AVAILABLE, 8).to_bytes(8, "little") == b"12345678"
        assert (driver.read(USED), driver.read(USED + 4)) == (0, 7)


def test_absent_queue_has_size_zero(driver: Driver) -> None:
    driver.write(QUEUE, 2)
    assert driver.read(SIZE) == 0
    assert (driver.read(SIZE), driver.read(DESCRIPTORS), driver.read(VECTOR)) == (0, 0, NONE)
    for register in (SIZE, DESCRIPTORS, ENABLE, VECTOR):
        with pytest.raises(GuestFault, match="set up queue 2"):
            driver.write(register, 1)


def test_running_queue_cannot_be_changed(driver: Driver) -> None:
    driver.start()
    driver.write(QUEUE, 0)
    driver.write(DESCRIPTORS, 0x5000)
    driver.write(ENABLE, 0)
    assert (driver.read(DESCRIPTORS), driver.read(ENABLE)) == (RING.descriptors, 1)


def test_absent_vectors_read_back_as_no_vector(driver: Driver) -> None:
    driver.write(QUEUE, 0)
    for register in (CONFIG_VECTOR, VECTOR):
        driver.write(register, 2)
        assert driver.read(register) == 2
        driver.write(register, 3)
        assert driver.read(register) == NONE


@pytest.mark.parametrize(
    ("register", "value", "what"),
    [
        (SIZE, 3, "power of two"),
        (SIZE, 0, "power of two"),
        (SIZE, 512, "power of two"),
        (DESCRIPTORS, 0x1008, "16-aligned"),
        (AVAILABLE, 0x2001, "2-aligned"),
        (USED, 0x3002, "4-aligned"),
        (USED, 0xFFFF_FFFC, "outside guest memory"),
        (DESCRIPTORS + 4, 1, "outside guest memory"),
    ],
)
def test_malformed_ring_raises_guest_fault_at_the_start(
    driver: Driver, register: int, value: int, what: str
) -> None:
    driver.status(ACKNOWLEDGE, DRIVER)
    driver.accept(1 << 32)
    driver.status(FEATURES_OK)
    driver.set_up_queue(0)
    driver.write(register, value)
    with pytest.raises(GuestFault, match=what):
        driver.status(DRIVER_OK)
    assert driver.backend.log == []


# the rest of the BAR


def test_device_configuration_reads_in_any_width(driver: Driver) -> None:
    assert driver.read(CONFIG + 1, 1) == 1
    assert driver.read(CONFIG + 2, 2) == 0x0302
    assert driver.read(CONFIG + 4, 8) == 0x0B0A_0908_0706_0504
    assert driver.read(CONFIG + 8, 8) == 0x0B0A_0908
    assert driver.read(CONFIG + 0x800) == 0
    driver.write(CONFIG, 0xFFFF_FFFF)
    assert driver.read(CONFIG) == 0x0302_0100


def test_kick_of_another_width_reaches_its_queue(driver: Driver) -> None:
    kicks = [driver.vm.ioeventfds[IO_START + 2 * number] for number in (0, 1)]
    driver.board.buses.pio.write(IO_START + 2, 4, 1)
    assert select.select(kicks, [], [], 0)[0] == [kicks[1]]
    with pytest.raises(GuestFault, match="kicked queue 7"):
        driver.board.buses.pio.write(IO_START + 14, 2, 7)
    assert select.select(kicks, [], [], 0)[0] == [kicks[1]]


# MSI-X


def test_vectors_need_enable_and_unmask(driver: Driver) -> None:
    driver.entry(0, 0xFEE0_1000, 0x31, masked=False)
    driver.entry(1, 0xFEE0_2000, 0x32, masked=True)
    assert driver.live() == set()
    driver.message_control(MSIX_CONTROL_ENABLE)
    assert driver.live() == {0}
    driver.entry(1, 0xFEE0_2000, 0x32, masked=False)
    assert driver.live() == {0, 1}
    routes = [driver.vm.routes[driver.vm.irqfds[driver.device._msix.eventfds[v]]] for v in (0, 1)]
    assert routes == [(0xFEE0_1000, 0x31), (0xFEE0_2000, 0x32)]
    driver.message_control(MSIX_CONTROL_ENABLE | MSIX_CONTROL_MASK)
    assert driver.live() == set()
    driver.message_control(MSIX_CONTROL_ENABLE)
    assert driver.live() == {0, 1}
    driver.message_control(0)
    assert driver.live() == set()


def test_changed_message_is_routed_again(driver: Driver) -> None:
    driver.message_control(MSIX_CONTROL_ENABLE)
    driver.entry(0, 0xFEE0_1000, 0x31, masked=False)
    gsi = driver.vm.irqfds[driver.device._msix.eventfds[0]]
    driver.write(TABLE + 8, 0x44)
    driver.write(TABLE, 0x1_FEE0_3000, 8)
    assert driver.vm.routes[gsi] == (0x1_FEE0_3000, 0x44)


def test_masked_event_waits_in_its_eventfd(driver: Driver) -> None:
    driver.message_control(MSIX_CONTROL_ENABLE)
    driver.entry(1, 0xFEE0_1000, 0x31, masked=True)
    fd = driver.device._msix.eventfds[1]
    os.write(fd, b"\1".ljust(8, b"\0"))
    driver.entry(1, 0xFEE0_1000, 0x31, masked=False)
    assert fd in driver.vm.irqfds
    assert select.select([fd], [], [], 0)[0] == [fd]  # KVM reads it when the irqfd is assigned


def test_table_reads_back_and_pending_bits_are_read_only(driver: Driver) -> None:
    driver.entry(2, 0x1234_5678_9ABC_DEF0, 0xCAFE, masked=True)
    assert driver.read(TABLE + 32, 8) == 0x1234_5678_9ABC_DEF0
    assert driver.read(TABLE + 40, 8) == 1 << 32 | 0xCAFE
    pending = TABLE + 16 * 3
    driver.write(pending, 0xFFFF_FFFF)
    driver.write(pending - 4, (1 << 64) - 1, 8)  # partly outside the table: dropped
    assert driver.read(pending) == 0
    assert driver.read(pending - 4) == 1


def test_all_vectors_start_masked(driver: Driver) -> None:
    assert [driver.read(TABLE + 16 * vector + 12) for vector in range(3)] == [1, 1, 1]
    driver.message_control(MSIX_CONTROL_ENABLE)
    assert driver.live() == set()


def test_table_size_is_read_only(driver: Driver) -> None:
    capability = driver.device._msix._capability
    driver.message_control(0xFFFF)
    assert driver.function.read_config(capability + 2, 2) == 0xC000 | 2


# suspend and resume


def signalled(fd: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        return bool(os.read(fd, 8))
    return False


@pytest.mark.parametrize("features", [1 << 32, 1 << 32 | F_EVENT_INDEX])
@pytest.mark.parametrize("used", [0, 1])
def test_resume_signals_events_that_may_be_lost(driver: Driver, features: int, used: int) -> None:
    """Used buffers are signalled unless event indices show that the driver has seen them."""
    driver.device._device_features |= F_EVENT_INDEX
    driver.start(features)
    driver.board.memory.write(RING.used + 2, used.to_bytes(2, "little"))
    driver.device.suspend()
    driver.device.resume()
    assert driver.backend.log == ["start", "stop", "start"]
    call = driver.device._msix.eventfds[1]
    assert signalled(call) is (used == 1 or not features & F_EVENT_INDEX)
    assert os.read(driver.device._queues[0].kick, 8)


@pytest.mark.parametrize("seen", [True, False])
def test_resume_signals_an_unread_configuration_change(driver: Driver, seen: bool) -> None:
    driver.write(CONFIG_VECTOR, 2)
    driver.start()
    driver.device._config_changed()
    config = driver.device._msix.eventfds[2]
    assert signalled(config)
    if seen:
        driver.read(CONFIG, 4)
    driver.device.suspend()
    driver.device.resume()
    assert signalled(config) is not seen


def test_device_reset_before_resume_is_not_started(driver: Driver) -> None:
    """A clone's guest may run before its last device resumes."""
    driver.start()
    driver.device.suspend()
    driver.write(STATUS, 0, 1)
    driver.device.resume()
    assert driver.backend.log == ["start", "stop"]
    driver.start()
    driver.device.resume()
    assert driver.backend.log == ["start", "stop", "start"]
