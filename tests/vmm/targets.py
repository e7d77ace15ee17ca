"""What is fuzzed: one function for each thing that reads what a guest or a client wrote."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
from functools import cache
from itertools import pairwise
from typing import Any

from harness.vmm.boot import pvh
from harness.vmm.console import Console
from harness.vmm.control import LINE_LIMIT, Channel, LineReader
from harness.vmm.devices import power, serial
from harness.vmm.devices.bus import Buses
from harness.vmm.devices.serial import Serial
from harness.vmm.devices.virtio.block import Block
from harness.vmm.devices.virtio.queue import MAX_SIZE, Queue, Ring
from harness.vmm.machine import Config, Machine
from harness.vmm.memory import Memory
from harness.vmm.supervisor import Child, Supervisor
from tests.vmm.fakes import F_VERSION_1, Board, FakeBackend
from tests.vmm.fuzz import Source, Target

MEMORY = 1 << 20
TABLE, AVAILABLE, USED, INDIRECT, DATA = 0x1000, 0x2000, 0x3000, 0x4000, 0x8000
SECTORS = 8


@cache
def memory(size: int = MEMORY) -> Memory:
    """Guest memory with a trap behind it: to touch that ends this process by SIGSEGV."""
    made = Memory(size)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(made.regions[0].hva + size), ctypes.c_size_t(4096), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    return made


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
    """What a driver might write, and what none would."""
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
    served = 0
    while source and served < 100:
        for chain in queue.pop():
            assert all(map(inside, chain.readable + chain.writable))
            assert len(chain.readable) + len(chain.writable) <= 2 * MAX_SIZE
            for view in chain.writable[: source.below(3)]:
                view[:16] = source.raw(min(16, len(view)))  # may well hit the ring itself
            queue.push(chain, source.number(32))
            served += 1
            if served >= 100:
                break
        fill_ring(source, where.size)


@cache
def disks() -> tuple[Block, Block, int]:
    """A disk to write, the same one to read, and its file."""
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
            written = disk._request(chain)
            assert 0 < written <= sum(map(len, chain.writable))
            queue.push(chain, written)
    finally:
        after = os.pread(fd, 8192, 0)
        assert len(after) == SECTORS * 512
        assert disk is writable or after == before


def access(source: Source, buses: Buses, choices: tuple[int, ...], port: bool) -> None:
    """One read or write as KVM would hand it on."""
    bus = buses.pio if port else buses.mmio
    where = source.pick(choices) + source.pick((0, 0, 1, 2, 3, 4, 8, 12, source.below(256)))
    size = source.pick((1, 2, 4) if port else (1, 2, 4, 8))
    if source.chance():
        assert 0 <= bus.read(where, size) < 1 << (8 * size)
    else:
        bus.write(where, size, source.number(8 * size))


def pci(source: Source) -> None:
    """Configuration space by its ports, BARs that move under everything else."""
    board = Board(memory(), FakeBackend(), FakeBackend())
    power.attach(board.buses)
    board.bridge.on_reset_control = power.reset_control
    ports = (0xCF8, 0xCFC, 0xCFC, 0xCFC, 0x600, 0x64, 0x1000, 0x1010, source.number(16))
    cells = (0xC000_0000, 0xC000_3000, 0xC000_4000, source.number(32))
    try:
        while source:
            if source.chance():
                register = source.pick((0, 4, 4, 4, 0x10, 0x18, 0x34, 0x3C, source.below(256)))
                slot = source.pick((0, 1, 2, source.below(32)))
                board.buses.pio.write(0xCF8, 4, 0x8000_0000 | slot << 11 | register)
                board.buses.pio.write(0xCFC, 4, source.pick((3, 0, *cells, source.number(32))))
            access(source, board.buses, ports, port=True)
            access(source, board.buses, cells, port=False)
            mapped = [at for at, _, _ in board.buses.mmio._ranges + board.buses.pio._ranges]
            assert len(mapped) <= 8
    finally:
        board.close()


def virtio(source: Source) -> None:
    """Common configuration, device configuration, MSI-X table, notifications."""
    backend = FakeBackend()
    board = Board(memory(), backend)
    device = board.devices[0]
    device.function.write_config(4, 2, 3)
    try:
        if source.below(4):
            for offset, written in ((20, 1), (20, 3), (8, 1), (12, 1), (20, 11)):
                device.write(offset, 4, written)
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
                for queue in backend.started:
                    queue.ring.check(memory())
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
    # a line has edges, not repetitions
    assert all(a != b for a, b in pairwise(levels))


def console(source: Source) -> None:
    lines: list[str] = []
    screen = Console(lambda at, text: lines.append(text))
    while source:
        text = source.pick((b"Kernel panic - not syncing: ", b"\r\n", b"\xff", source.raw(9)))
        for value in text * source.pick((1, 1, 1, 300)):
            screen.byte(value)
        if source.chance():
            screen.flush_stale(-1)
    assert max(map(len, lines), default=0) <= 4096
    assert len(screen._line) < 4096


def value(source: Source, depth: int = 0) -> Any:
    """Whatever JSON can say."""
    kind = source.below(10 if depth < 3 else 6)
    if kind >= 8:
        return [value(source, depth + 1) for _ in range(source.below(3))]
    if kind >= 6:
        keys = ("path", "serial", "text", "argv", "guest", "op", "")
        return {source.pick(keys): value(source, depth + 1) for _ in range(source.below(4))}
    strings = ("", "guest", "stats", "type", "/dev/null", "\0", "\ud800", "../x", "x" * 300)
    return (
        None,
        source.chance(),
        source.number(64) - source.number(64),
        source.bits(16) / 7,
        source.pick(strings),
        source.raw(5).decode("latin-1"),
    )[kind]


FIELDS = {
    "kernel": "/absent",
    "initramfs": "/absent",
    "cmdline": "quiet",
    "vcpus": 1,
    "memory": 16,
    "disks": [{"path": "/absent", "serial": "s"}],
    "vsock": False,
}


def fields(source: Source) -> dict[str, Any]:
    """Arguments of "create", a few of them wrong."""
    chosen: dict[str, Any] = {name: given for name, given in FIELDS.items() if source.below(8)}
    for _ in range(source.below(3)):
        chosen[source.pick((*FIELDS, "unknown"))] = value(source)
    return chosen


def config(source: Source) -> None:
    parsed = Config.parse(fields(source) if source.below(8) else value(source))
    assert 0 < parsed.memory <= 1 << 20
    assert parsed.vcpus > 0
    for path in (parsed.kernel, parsed.initramfs, *(disk.path for disk in parsed.disks)):
        assert b"\0" not in os.fsencode(path)
    os.fsencode(parsed.cmdline)


def requests(source: Source) -> bytes:
    """A control line, or what is none."""
    kind = source.below(4)
    if kind == 0:
        return source.raw(source.below(40))
    if kind == 1:
        return b"[" * source.pick((1, 10, 100_000)) + source.raw(2)
    request = value(source)
    if kind == 2:
        request = {
            "id": value(source, 2),
            "guest": source.pick(("guest", "g", value(source, 2))),
            "op": source.pick(("stats", "type", "stop", "kill", "create", value(source, 2))),
            "arguments": source.pick(({}, {"text": value(source, 2)}, value(source, 1))),
        }
    return json.dumps(request).encode()


class Told(Supervisor):
    """A supervisor that forks nothing and writes into a list."""

    def __init__(self) -> None:
        super().__init__()
        self._cgroups.close()
        self.written: list[bytes] = []

    def _write(self, line: bytes) -> None:
        assert line.endswith(b"\n")
        json.loads(line)
        self.written.append(line)

    def _fork(self, guest: str, operation: str, request: dict[str, Any]) -> None:
        guest.encode()


@cache
def supervisor() -> tuple[Told, socket.socket]:
    made = Told()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    made._children["guest"] = Child("guest", 0, ours)
    return made, theirs


def no_kill(pid: int, number: int) -> None:
    """In place of os.kill."""


def control(source: Source) -> None:
    """Lines to the supervisor: each is answered or handed to its guest, whatever it is."""
    made, theirs = supervisor()
    made.written.clear()
    line = requests(source).replace(b"\n", b"")
    kill, os.kill = os.kill, no_kill
    try:
        made._line(line)
    finally:
        os.kill = kill
    try:
        passed = theirs.recv(1 << 21)
    except BlockingIOError:
        passed = b""
    created = b'"create"' in line or b'"exec"' in line
    assert made.written or passed == line + b"\n" or created


class Asked(Channel):
    """A channel with all requests in it from the start."""

    def __init__(self, lines: list[bytes]) -> None:
        super().__init__("guest", socket.socket())
        self.connection.close()
        self.lines = lines
        self.sent: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        json.dumps(message)
        self.sent.append(message)

    def requests(self) -> Any:
        for line in self.lines:
            yield json.loads(line)


def is_object(line: bytes) -> bool:
    """Whether the supervisor hands it on."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def guest_control(source: Source) -> None:
    """What the supervisor hands to a guest's process: always an object, else anything."""
    lines = [line for line in (requests(source) for _ in range(3)) if is_object(line)]
    machine = Machine.__new__(Machine)
    machine.channel = asked = Asked(lines)
    machine.buses = Buses()
    machine.serial = Serial(lambda byte: None, lambda level: None)
    ends: list[BaseException] = []
    machine._ends = type("Ends", (), {"put": staticmethod(ends.append)})()
    machine.statistics = lambda: {}  # type: ignore[method-assign]
    machine._serve()
    stop = any(json.loads(line).get("op") == "stop" for line in lines)
    assert len(asked.sent) == len(lines) or stop
    assert [str(end).partition(":")[0] for end in ends] == ["stopped"]


def lines(source: Source) -> None:
    """However a stream is cut, the same lines come out; an endless one is refused, once."""
    reader, stream = LineReader(), bytearray()
    seen: list[bytes] = []
    refused = 0
    while source and len(stream) < 3 * LINE_LIMIT:
        data = source.raw(source.below(20))
        if source.below(8) == 0:
            data = data.ljust(source.pick((300_000, LINE_LIMIT + 1)), b"x")
        stream += data
        try:
            seen += reader.feed(data)
        except ValueError:
            refused += 1
    *whole, rest = bytes(stream).split(b"\n")
    short = [line for line in whole if len(line) <= LINE_LIMIT]
    assert [line for line in seen if len(line) <= LINE_LIMIT] == short
    assert len(seen) + refused in (len(whole), len(whole) + (len(rest) > LINE_LIMIT))


@cache
def file() -> int:
    return os.memfd_create("kernel")


def elf(source: Source) -> bytes:
    """An ELF kernel, some of its fields off."""
    wild = source.number(64)
    magic = b"\x7fELF\x02\x01\x01" if source.below(16) else source.raw(7)
    count = mostly(source, source.pick((2, 3)), 1, 0, wild & 0xFFFF)
    size, offset = mostly(source, 56, wild & 0xFFFF), mostly(source, 64, wild)
    data = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(magic.ljust(16, b"\0"), 2, 62, 1, 0x10_0000, offset, 0, 0, 64, size, count, 0, 0, 0),
    )
    for kind in (4, 1, 1)[: min(count, 3)]:
        length = mostly(source, source.pick((16, 32)), 0, 4096, wild)
        data += struct.pack(
            "<IIQQQQQQ",
            mostly(source, kind, 4, 1, wild & 0xFFFF_FFFF),
            *(7, mostly(source, 0x200, 0, wild), 0),
            mostly(source, 0x10_0000, 0, MEMORY - 16, MEMORY, wild),
            *(length, mostly(source, length, 0, 1 << 20, wild), 4),
        )
    note = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x10_0000)
    return data.ljust(0x200, b"\0") + source.pick((note, note, note, source.raw(60), note[:10]))


def kernel(source: Source) -> None:
    """A kernel, its initramfs and its start information."""
    fd = file()
    data = elf(source)
    guest = memory(source.pick((64, 64, 64, 1, 2, 4)) << 20)
    os.truncate(fd, 0)
    os.pwrite(fd, data.ljust(source.pick((8192, 8192, 8192, len(data))), b"\0"), 0)
    loaded = pvh.load_kernel(guest, f"/proc/self/fd/{fd}")
    assert loaded.entry > 0
    assert loaded.end <= guest.size
    os.truncate(fd, source.pick((1, 4096, 0, source.number(24))))
    path = source.pick((f"/proc/self/fd/{fd}", f"/proc/self/fd/{fd}", "/proc", "/dev/null"))
    initramfs = None
    if source.chance():
        initramfs = pvh.load_initramfs(guest, path, loaded)
        assert loaded.end <= initramfs[0] < sum(initramfs) <= guest.size
    text = source.raw(source.below(5)).decode("latin-1") * source.pick((1, 1, 1000, 2000))
    pvh.write_start_info(guest, text, initramfs, 1 + source.below(255))


TARGETS: dict[str, Target] = {
    "block": block,
    "config": config,
    "console": console,
    "control": control,
    "guest": guest_control,
    "kernel": kernel,
    "lines": lines,
    "pci": pci,
    "serial": serial_port,
    "virtio": virtio,
    "virtqueue": virtqueue,
}
assert serial.PORT == 0x3F8
