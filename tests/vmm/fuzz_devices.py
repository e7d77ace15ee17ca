"""Fuzz targets: a driver's accesses to devices, queues and the console."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from typing import cast
from unittest import mock

from harness.kvm import libc
from harness.kvm.errors import GuestFault
from harness.kvm.vm import Vm
from harness.vmm.console import Console
from harness.vmm.devices import fwcfg, power, testdev
from harness.vmm.devices import pci as pci_devices
from harness.vmm.devices.bus import Buses
from harness.vmm.devices.pci import (
    ECAM_SIZE,
    ECAM_START,
    IO_SIZE,
    IO_START,
    MMIO_SIZE,
    MMIO_START,
)
from harness.vmm.devices.serial import Serial
from harness.vmm.devices.virtio.block import Block
from harness.vmm.devices.virtio.queue import MAX_SIZE, Queue, Ring
from harness.vmm.devices.virtio.transport import VirtioPci
from harness.vmm.memory import Memory, Region
from tests.vmm.fakes import F_VERSION_1, Board, FakeBackend, FakeVm
from tests.vmm.fuzz import Source

MEMORY = 1 << 20
TABLE, AVAILABLE, USED, INDIRECT, DATA = 0x1000, 0x2000, 0x3000, 0x4000, 0x8000
SECTORS = 8


@cache
def memory(size: int = MEMORY) -> Memory:
    """Guest memory with a guard page behind it: an access to it ends this process."""
    guest = Memory(size)
    libc.mprotect(guest.regions[0].hva + size, 4096, 0)
    return guest


def inside(view: memoryview) -> bool:
    """Whether a view lies in guest memory, by its host address."""
    if not len(view):
        return True
    region = memory().regions[0]
    at = ctypes.addressof(ctypes.c_ubyte.from_buffer(view)) - region.hva
    return bool(at >= 0 and at + len(view) <= region.size)


def mostly(source: Source, good: int, *bad: int) -> int:
    return source.pick(bad) if source.below(16) == 0 else good


def address(source: Source) -> int:
    return source.pick((DATA, DATA + 512, TABLE, INDIRECT, MEMORY - 8, MEMORY, source.number(64)))


def descriptor(source: Source) -> bytes:
    length = source.pick((0, 1, 16, 32, 512, 513, 4096, source.number(32)))
    following = source.pick((0, 1, 2, 3, 7, source.number(16)))
    flags = source.pick((0, 1, 2, 3, 4, source.number(16)))
    return struct.pack("<QIHH", address(source), length, flags, following)


def fill_ring(source: Source, size: int) -> None:
    """Write a ring: valid and invalid descriptors."""
    guest = memory()
    guest.view(TABLE, 0x9000 - TABLE)[:] = bytes(0x9000 - TABLE)
    for table in (TABLE, INDIRECT):
        for at in range(source.below(9)):
            guest.write(table + 16 * at, descriptor(source))
    index = source.pick((1, 2, size, size + 1, source.number(16))) & 0xFFFF
    heads = struct.pack("<8H", *(source.pick((0, 1, 2, source.number(16))) for _ in range(8)))
    guest.write(AVAILABLE, struct.pack("<HH", source.bits(1), index) + heads)
    guest.write(AVAILABLE + 4 + 2 * size, struct.pack("<H", source.number(16)))


def ring(source: Source) -> Ring:
    size = source.pick((8, 8, 8, 1, 2, MAX_SIZE, source.number(16)))
    if source.below(8):
        return Ring(size, TABLE, AVAILABLE, USED)
    return Ring(size, address(source), address(source), address(source))


def virtqueue(source: Source) -> None:
    where = ring(source)
    fill_ring(source, where.size)
    queue = Queue(memory(), where, event_index=source.chance())
    count = 0
    while source and count < 100:
        for chain in queue.pop():
            assert all(map(inside, chain.readable + chain.writable))
            assert len(chain.readable) + len(chain.writable) <= 2 * MAX_SIZE
            for view in chain.writable[: source.below(3)]:
                view[:16] = source.raw(min(16, len(view)))  # may overwrite the ring
            queue.push(chain, source.number(32))
            count += 1
            if count >= 100:
                break
        fill_ring(source, where.size)


@cache
def disks() -> tuple[Block, Block, int]:
    """A writable disk, a read-only disk of the same file, and the file."""
    fd = os.memfd_create("disk")
    os.truncate(fd, SECTORS * 512)
    path = f"/proc/self/fd/{fd}"
    fail: list[BaseException] = []
    return (
        Block(path, "serial", False, False, fail.append),
        Block(path, "serial", True, False, fail.append),
        fd,
    )


def block(source: Source) -> None:
    writable, readonly, fd = disks()
    disk = readonly if source.chance() else writable
    before = os.pread(fd, 8192, 0)
    fill_ring(source, 8)
    kind = source.pick((0, 1, 4, 8, 11, source.number(32)))
    sector = source.pick((0, 1, SECTORS - 1, SECTORS, source.number(64)))
    if source.below(4):
        flags = 1 | mostly(source, 0 if kind == 1 else 2, 0, 2, 4)
        length = mostly(source, source.pick((512, 1024)), 0, 20, 513, MEMORY)
        sane = ((DATA, mostly(source, 16, 8, 528), 1, 1), (DATA + 1024, length, flags, 2))
        for at, fields in enumerate((*sane, (DATA + 16, mostly(source, 1, 0, 513), 2, 0))):
            memory().write(TABLE + 16 * at, struct.pack("<QIHH", *fields))
        memory().write(AVAILABLE, struct.pack("<HHH", 0, 1, 0))
    memory().write(DATA, struct.pack("<IIQ", kind, 0, sector))
    queue = Queue(memory(), Ring(8, TABLE, AVAILABLE, USED), event_index=False)
    try:
        for chain in queue.pop():
            written = disk._handle_request(0, chain)
            assert 0 < written <= sum(map(len, chain.writable))
            queue.push(chain, written)
    finally:
        after = os.pread(fd, 8192, 0)
        assert len(after) == SECTORS * 512
        assert disk is writable or after == before


def access(source: Source, buses: Buses, choices: tuple[int, ...], port: bool) -> None:
    """One read or write as KVM reports it."""
    bus = buses.pio if port else buses.mmio
    where = source.pick(choices) + source.pick((0, 0, 1, 2, 3, 4, 8, 12, source.below(256)))
    size = source.pick((1, 2, 4) if port else (1, 2, 4, 8))
    if source.chance():
        assert 0 <= bus.read(where, size) < 1 << (8 * size)
    else:
        bus.write(where, size, source.number(8 * size))


@cache
def space() -> Region:
    """A region for all boards, as nothing unmaps it."""
    return Region(ECAM_START, ECAM_SIZE)


def map_configuration(board: Board) -> None:
    """As HostBridge.enable_ecam, but always with the same region."""
    space().bytes[:] = b"\xff" * ECAM_SIZE
    with mock.patch.object(pci_devices, "Region", return_value=space()):
        board.bridge.enable_ecam(cast(Vm, board.vm))


def pci(source: Source) -> None:
    """Configuration space by ports or in memory, while BARs move."""
    board = Board(memory(), FakeBackend(), FakeBackend())
    power.attach(board.buses)
    board.bridge.on_reset_control = power.reset_control
    mapped = source.chance()
    if mapped:
        map_configuration(board)
    fixed = {(at, end) for bus in (board.buses.pio, board.buses.mmio) for at, end, _ in bus._ranges}
    ports = (0xCF8, 0xCFC, 0xCFC, 0xCFC, 0x600, 0x64, 0x1000, 0x1010, source.number(16))
    cells = (0xC000_0000, 0xC000_3000, 0xC000_4000, ECAM_START + 0x8000, source.number(32))
    try:
        while source:
            if source.chance():
                register = source.pick((0, 4, 4, 4, 0x10, 0x18, 0x34, 0x3C, source.below(256)))
                slot = source.pick((0, 1, 2, source.below(32)))
                board.buses.pio.write(0xCF8, 4, 0x8000_0000 | slot << 11 | register)
                new = source.pick((3, 0, *cells, source.number(32)))
                board.buses.pio.write(0xCFC, 4, new)
                board.buses.mmio.write(ECAM_START | slot << 15 | register, 4, new)
            access(source, board.buses, ports, port=True)
            access(source, board.buses, cells, port=False)
            for bus, start, room in (
                (board.buses.mmio, MMIO_START, MMIO_SIZE),
                (board.buses.pio, IO_START, IO_SIZE),
            ):
                ranges = [(at, end) for at, end, _ in bus._ranges if (at, end) not in fixed]
                assert all(start <= at < end <= start + room for at, end in ranges)
                assert len(ranges) <= 2
    finally:
        board.close()


def is_ring(where: Ring) -> bool:
    try:
        where.check(memory())
    except GuestFault:
        return False
    return True


def set_up(source: Source, device: VirtioPci, queues: Iterable[int] = (0,)) -> None:
    """Initialize a device as a driver does, in most cases."""
    wild = source.number(32)
    for offset, size, value in (
        *((20, 1, 1), (20, 1, 3), (8, 4, 1), (12, 4, mostly(source, 1, 0, 3, wild))),
        *((8, 4, 0), (12, 4, device._device_features & mostly(source, 0, wild)), (20, 1, 11)),
    ):
        device.write(offset, size, value)
    for number in queues:
        for offset, size, value in (
            *((22, 2, mostly(source, number, 1, 2)), (24, 2, mostly(source, 8, 0, 3, 512))),
            *((26, 2, mostly(source, 1, 2, 3, 0xFFFF)), (32, 4, mostly(source, TABLE, 8, wild))),
            (40, 4, mostly(source, AVAILABLE, 1, wild)),
            (48, 4, mostly(source, USED, 2, wild)),
            (28, 2, 1),
        ):
            device.write(offset, size, value)
    device.write(20, 1, 15)


def virtio(source: Source) -> None:
    """Common configuration, device configuration, MSI-X table, notifications."""
    backend = FakeBackend()
    board = Board(memory(), backend)
    device = board.devices[0]
    device.function.write_config(4, 2, 3)
    try:
        if source.chance():
            set_up(source, device)
        while source:
            offset = source.pick((20, 20, 12, 22, 24, 28, 32, 0x3000, source.below(0x4000)))
            size = source.pick((1, 2, 4, 8))
            value = source.pick((0, 1, 3, 8, 11, 15, F_VERSION_1, source.number(8 * size)))
            if source.chance():
                device.read(offset, size)
            else:
                device.write(offset, size, value & ((1 << 8 * size) - 1))
            if source.below(8) == 0:
                device.function.write_config(source.below(255), 2, source.number(16))
            if backend.started is not None:
                assert backend.accepted & F_VERSION_1
                assert not backend.accepted & ~device._device_features
                assert all(is_ring(queue.ring) for queue in backend.started)
    finally:
        board.close()


def serial_port(source: Source) -> None:
    levels = [0]
    out = bytearray()
    port = Serial(out.append, levels.append)
    while source:
        offset, size = source.below(8), source.pick((1, 2, 4))
        if source.chance():
            assert 0 <= port.read(offset, size) < 256
        else:
            port.write(offset, size, source.number(8 * size))
        if source.below(8) == 0:
            port.receive(source.raw(3))
    # levels alternate
    assert all(a != b for a, b in pairwise(levels))


def testdev_ports(source: Source) -> None:
    """The test devices' ports and memory, the firmware configuration device."""
    buses = Buses()
    testdev.attach(buses, cast(Vm, FakeVm()), memory())
    buses.pio.add(fwcfg.SELECTOR, 2, fwcfg.FirmwareConfig(MEMORY, 1 + source.below(255)))
    memory().write(DATA, b"here")
    ports = (0xE0, 0xE4, 0xE8, 0x510, 0x510, 0x511, 0x511, testdev.IRQ_LINES, source.number(16))
    cells = (testdev.IO_MEMORY, testdev.IO_MEMORY + 0xFFF8, source.number(32))
    try:
        while source:
            access(source, buses, ports, port=True)
            access(source, buses, cells, port=False)
    finally:
        assert bytes(memory().view(DATA, 4)) == b"here"


def console(source: Source) -> None:
    lines: list[str] = []
    screen = Console(lambda at, text: lines.append(text))
    while source:
        text = source.pick((b"Kernel panic - not syncing: ", b"\r\n", b"\xff", source.raw(9)))
        text *= 300 if source.below(32) == 0 else 1
        if source.chance():
            screen.write(text)
        else:
            for value in text:
                screen.write_byte(value)
        if source.chance():
            screen.flush_stale(-1)
    assert max(map(len, lines), default=0) <= 4096
    assert len(screen._line) < 4096
