"""Fuzz targets: devices in this process, alone and behind the PCI transport."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache

from harness.kvm.vm import eventfd
from harness.vmm.devices.virtio.balloon import Balloon
from harness.vmm.devices.virtio.console import VirtioConsole
from harness.vmm.devices.virtio.queue import Ring
from harness.vmm.devices.virtio.rng import Rng
from harness.vmm.devices.virtio.transport import ActiveQueue
from harness.vmm.devices.virtio.userspace import UserspaceDevice
from harness.vmm.memory import PAGE, Memory
from tests.vmm.fakes import Board
from tests.vmm.fuzz import Source
from tests.vmm.fuzz_devices import (
    AVAILABLE,
    DATA,
    MEMORY,
    TABLE,
    USED,
    fill_ring,
    memory,
    mostly,
    set_up,
)


def idle(device: UserspaceDevice) -> UserspaceDevice:
    """A device whose thread does nothing: the target does its work step by step."""
    device._serve = lambda: None  # type: ignore[method-assign]
    return device


@cache
def guarded() -> Memory:
    """The same memory, with a check that only whole pages are discarded."""
    region = memory().regions[0]
    discard = region.discard

    def checked(start: int, length: int) -> bool:
        assert not start % PAGE
        assert not length % PAGE
        assert region.hva <= start < start + length <= region.hva + region.size
        return discard(start, length)

    region.discard = checked  # type: ignore[method-assign]
    return memory()


@cache
def kick() -> int:
    return eventfd()


def kicks(source: Source, device: UserspaceDevice, features: int) -> Iterator[None]:
    """Starts a device, fills its queues, kicks and stops it, until the input is used up."""
    ring = Ring(8, TABLE, AVAILABLE, USED)
    bases = dict.fromkeys(range(device.queues), 0)
    while source:
        fill_ring(source, ring.size)
        queues = [ActiveQueue(number, ring, kick(), -1, base) for number, base in bases.items()]
        device.start(guarded(), queues, features)
        try:
            for _ in range(source.below(6)):
                device._on_kick(source.below(device.queues))
                yield
        finally:
            bases = device.stop()
            assert all(0 <= base < 1 << 16 for base in bases.values())


def features_of(source: Source, device: UserspaceDevice) -> int:
    return device.features & mostly(source, device.features, source.number(32))


def rng(source: Source) -> None:
    device = idle(Rng(raise_it))
    for _ in kicks(source, device, features_of(source, device)):
        pass


def balloon(source: Source) -> None:
    device = Balloon(raise_it)
    idle(device)
    device._statistics_updated.wait = lambda timeout=None: True  # type: ignore[method-assign]
    for _ in kicks(source, device, features_of(source, device)):
        pages = (DATA // PAGE, MEMORY // PAGE - 1, MEMORY // PAGE, source.number(32))
        memory().write(DATA, struct.pack("<4I", *(source.pick(pages) for _ in range(4))))
        device.write_config(source.below(32), source.raw(source.pick((1, 2, 4, 8))))
        device.set_target(source.below(MEMORY >> 20))
        device.refresh()
        assert len(device.config) == 16
        assert all(value >= 0 for value in device.counters().values())


def virtio_console(source: Source) -> None:
    out = bytearray()
    device = VirtioConsole(out.extend, raise_it)
    idle(device)
    typed = 0
    for _ in kicks(source, device, features_of(source, device)):
        if source.chance():
            text = source.raw(source.below(40))
            device.receive(text)
            typed += len(text)
        assert len(device._input) <= typed
        assert len(out) <= device.requests << 20


def raise_it(error: BaseException) -> None:
    raise error


def behind_transport(source: Source) -> None:
    """Devices behind the transport: configuration space, resets, restarts."""
    chosen = (Rng(raise_it), Balloon(raise_it), VirtioConsole(lambda data: None, raise_it))
    device = idle(source.pick(chosen))
    board = Board(guarded(), device)
    transport = board.devices[0]
    transport.function.write_config(4, 2, 3)
    try:
        while source:
            if source.below(4) == 0:
                fill_ring(source, 8)
                set_up(source, transport, range(device.queues))
            offset = source.pick((0x2000, 0x2004, 0x2008, 20, 0x2000 + source.below(0x1000)))
            size = source.pick((1, 2, 4, 8))
            if source.chance():
                assert transport.read(offset, size) >= 0  # the bus masks it
            else:
                transport.write(offset, size, mostly(source, 0, source.number(8 * size)))
            if transport._running:
                device._on_kick(source.pick(list(device._queues)))
    finally:
        transport._reset()
        board.close()
