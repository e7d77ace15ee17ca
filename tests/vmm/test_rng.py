"""virtio-rng: requests, limits, the device's thread."""

from __future__ import annotations

import os

import pytest

from harness.kvm.errors import GuestFault
from harness.vmm.devices.virtio.queue import Queue
from harness.vmm.devices.virtio.rng import Rng
from harness.vmm.memory import Memory
from tests.vmm.driver import WRITE, Descriptor, Driver, RunningDevice, serve
from tests.vmm.fakes import RING

MEMORY = Memory(1 << 20)
DATA, TABLE = 0x10000, 0x8000


@pytest.fixture
def driver() -> Driver:
    MEMORY.view(DATA, 0x10000)[:] = bytes(0x10000)
    return Driver(MEMORY)


def ask(driver: Driver, *descriptors: Descriptor, table: int = 0) -> int:
    queue = Queue(MEMORY, RING, event_index=False)
    driver.offer(list(descriptors), table)
    return serve(Rng(lambda error: None), queue)


def test_every_buffer_is_filled(driver: Driver) -> None:
    assert ask(
        driver, (DATA, 64, WRITE), (DATA + 0x1000, 1, WRITE), (DATA + 0x2000, 99, WRITE)
    ) == (64 + 1 + 99)
    filled = bytes(MEMORY.view(DATA, 64)) + bytes(MEMORY.view(DATA + 0x2000, 99))
    assert len(set(filled)) > 50, "that is not random"
    assert bytes(MEMORY.view(DATA + 64, 64)) == bytes(64)
    assert bytes(MEMORY.view(DATA + 0x2000 + 99, 64)) == bytes(64)


def test_bytes_come_from_the_kernel(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda size: b"r" * size)
    assert ask(driver, (DATA, 8, WRITE), table=TABLE) == 8
    assert bytes(MEMORY.view(DATA, 9)) == b"r" * 8 + b"\0"


def test_request_is_limited_to_a_page(driver: Driver) -> None:
    assert ask(driver, (DATA, 4000, WRITE), (DATA + 4000, 4000, WRITE)) == 4096
    assert bytes(MEMORY.view(DATA + 4096, 4000)) == bytes(4000)


@pytest.mark.parametrize(
    "descriptors",
    [[(DATA, 0, WRITE)], [(DATA, 64, 0)], [(DATA, 64, 0), (DATA + 64, 64, WRITE)]],
    ids=["empty", "to read", "to read and write"],
)
def test_malformed_request_raises_guest_fault(
    driver: Driver, descriptors: list[Descriptor]
) -> None:
    with pytest.raises(GuestFault, match="virtio-rng"):
        ask(driver, *descriptors)


def test_thread_completes_and_counts_requests() -> None:
    rng = Rng(lambda error: None)
    started = RunningDevice(rng, MEMORY, 1)
    try:
        for turn in range(1, 4):
            started.drivers[0].offer([(DATA, 32, WRITE)])
            started.kick(0)
            started.wait(0)
            assert started.drivers[0].used == [32] * turn
        assert rng.counters() == {"rng_requests": 3}
    finally:
        assert started.close() == {0: 3}
