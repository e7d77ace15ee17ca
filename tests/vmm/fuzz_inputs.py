"""Fuzz targets: control lines and their arguments, and a guest's files."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import struct
from functools import cache
from queue import Queue
from typing import Any, cast

from harness.agent.control import LINE_LIMIT, Channel, LineReader, MessageWriter
from harness.agent.guest_processes import Child
from harness.agent.operations import serve
from harness.agent.supervisor import Supervisor
from harness.kvm import state, structs
from harness.kvm.errors import GuestFault
from harness.vmm.boot import kernel as kernel_file
from harness.vmm.boot import linux, pvh
from harness.vmm.chipset import Chipset
from harness.vmm.config import BOOT_PROTOCOLS, Config
from harness.vmm.devices.bus import Buses
from harness.vmm.devices.power import Pm1
from harness.vmm.devices.serial import Serial
from harness.vmm.devices.virtio.balloon import Balloon
from harness.vmm.devices.virtio.console import VirtioConsole
from harness.vmm.exit_storm import ExitStormDetector
from harness.vmm.machine import Machine
from harness.vmm.main_loop import MainLoop
from harness.vmm.snapshot import parse
from harness.vmm.state_reader import StateReader, encode_bytes, save_attributes
from harness.vmm.virtio_devices import VirtioDevices
from tests.vmm.fakes import Board, FakeBackend
from tests.vmm.fuzz import Source
from tests.vmm.fuzz_devices import MEMORY, is_ring, memory, mostly, set_up
from tests.vmm.payload import HEADER, bzimage


def value(source: Source, depth: int = 0) -> Any:
    """Any JSON value."""
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


VCPU_PARTS = {**state._VCPU, **state._EVENTS}
BASE64 = re.compile(r"([A-Za-z0-9+/]{4})+([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
FIELDS = {
    "kernel": "/absent",
    "initramfs": "/absent",
    "cmdline": "quiet",
    "vcpus": 1,
    "memory": 16,
    "disks": [{"path": "/absent", "serial": "s"}],
    "vsock": False,
    "networks": [{"mac": "02:00:00:00:00:01", "bridge": "absent"}],
    "rng": True,
    "balloon": False,
    "console": "both",
    "mode": "protected",
    "entry": 0x10_0000,
    "registers": {"rax": 1},
    "paused": True,
}
PAYLOAD = [{"gpa": 0x10_0000, "path": "/absent", "offset": 0, "size": 16}]


def fields(source: Source) -> dict[str, Any]:
    """Arguments of "create", some of them wrong."""
    chosen: dict[str, Any] = {name: one for name, one in FIELDS.items() if source.below(8)}
    if "kernel" not in chosen:
        chosen["payload"] = PAYLOAD
    for _ in range(source.below(3)):
        chosen[source.pick((*FIELDS, "payload", "unknown"))] = value(source)
    return chosen


def config(source: Source) -> None:
    parsed = Config.parse(fields(source) if source.below(8) else value(source))
    assert 0 < parsed.memory <= 1 << 20
    assert parsed.vcpus > 0
    assert bool(parsed.kernel) != bool(parsed.payload)
    paths = [one.path for one in parsed.disks] + [one.path for one in parsed.payload]
    for path in (parsed.kernel, parsed.initramfs, *paths):
        assert b"\0" not in os.fsencode(path)
    os.fsencode(parsed.cmdline)


def requests(source: Source) -> bytes:
    """A control line, or any bytes."""
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
            "op": source.pick(
                ("stats", "type", "balloon", "stop", "kill", "create", value(source, 2))
            ),
            "arguments": source.pick(
                (
                    {},
                    {"text": value(source, 2)},
                    {"text": "x", "port": source.pick(("hvc0", "ttyS0", value(source, 2)))},
                    {"mib": source.pick((value(source, 2), source.number(32)))},
                    value(source, 1),
                )
            ),
        }
    return json.dumps(request).encode()


class RecordingWriter(MessageWriter):
    """Records the lines that a supervisor writes."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        assert line.endswith(b"\n")
        json.loads(line)
        self.lines.append(line)


def no_fork(guest: str, request: dict[str, Any]) -> None:
    """Replaces GuestProcesses.start."""
    guest.encode()


@cache
def supervisor() -> tuple[Supervisor, RecordingWriter, socket.socket]:
    """A supervisor with one guest, its output, and the guest's end of its connection."""
    output = RecordingWriter()
    new_supervisor = Supervisor(output)
    new_supervisor.guests.close()  # its cgroups
    cast(Any, new_supervisor.guests).start = no_fork
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    new_supervisor.guests._children["guest"] = Child("guest", 0, ours, "", -1)
    return new_supervisor, output, theirs


def no_kill(pid: int, number: int) -> None:
    """Replaces os.kill."""


def control(source: Source) -> None:
    """Lines to the supervisor: each is answered or passed to its guest."""
    new_supervisor, output, theirs = supervisor()
    output.lines.clear()
    line = requests(source).replace(b"\n", b"")
    kill, os.kill = os.kill, no_kill
    try:
        new_supervisor.handle_line(line)
    finally:
        os.kill = kill
    try:
        passed = theirs.recv(1 << 21)
    except BlockingIOError:
        passed = b""
    created = b'"create"' in line or b'"exec"' in line
    assert output.lines or passed == line + b"\n" or created


class FakeChannel(Channel):
    """A channel with a list of requests."""

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
    """Whether the supervisor passes the line on."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def guest_control(source: Source) -> None:
    """Requests to a guest's process: JSON objects with any contents."""
    lines = [line for line in (requests(source) for _ in range(3)) if is_object(line)]
    machine = Machine.__new__(Machine)
    channel = FakeChannel(lines)
    machine.buses = Buses()
    machine.chipset = Chipset.__new__(Chipset)
    machine.chipset.serial = Serial(lambda byte: None, lambda level: None)
    machine.config = Config("/absent")
    ends: list[BaseException] = []
    machine.virtio = VirtioDevices.__new__(VirtioDevices)
    machine.virtio.hvc = VirtioConsole(lambda data: None, ends.append)
    machine.virtio.balloon = Balloon(ends.append)
    machine.end_machine = ends.append  # type: ignore[assignment]
    machine.statistics = lambda: {}  # type: ignore[method-assign]
    machine.vcpus, machine.guest_started = [], True
    storm = ExitStormDetector([], None, 0)
    machine._main_loop = MainLoop(Queue(), machine.buses, [], [], storm)
    serve(machine, channel)
    stop = any(json.loads(line).get("op") == "stop" for line in lines)
    assert len(channel.sent) == len(lines) or stop
    assert machine.virtio.balloon.counters()["balloon_target"] <= machine.config.memory
    assert [str(end).partition(":")[0] for end in ends] == ["stopped"]


def lines(source: Source) -> None:
    """A stream in any pieces yields the same lines. An endless line is refused once."""
    reader, stream = LineReader(), bytearray()
    complete: list[bytes] = []
    refused = 0
    while source and len(stream) < 3 * LINE_LIMIT:
        data = source.raw(source.below(20))
        if source.below(32) == 0:
            data = data.ljust(source.pick((300_000, LINE_LIMIT + 1)), b"x")
        stream += data
        try:
            complete += reader.feed(data)
        except ValueError:
            refused += 1
    *whole, rest = bytes(stream).split(b"\n")
    short = [line for line in whole if len(line) <= LINE_LIMIT]
    assert [line for line in complete if len(line) <= LINE_LIMIT] == short
    assert len(complete) + refused in (len(whole), len(whole) + (len(rest) > LINE_LIMIT))


@cache
def saved_machine() -> dict[str, Any]:
    """The state of a machine with one vCPU and one running device."""
    board = Board(memory(), FakeBackend())
    device = board.devices[0]
    device.function.write_config(4, 2, 3)
    set_up(Source(b"\1" * 100), device)
    assert device._running
    device.suspend()
    vcpu = {name: encode_bytes(bytes(part.size)) for name, part in VCPU_PARTS.items()}
    saved = {
        "vcpus": [
            {
                **vcpu,
                "cpuid": encode_bytes(bytes(40)),
                "msrs": encode_bytes(bytes(32)),
                "tsc_khz": 1,
            }
        ],
        "vm": {name: encode_bytes(bytes(part.size)) for name, part in state._VM.items()},
        "serial": save_attributes(Serial(lambda byte: None, lambda level: None)),
        "pm1": save_attributes(Pm1()),
        "pci": board.bridge.save(),
        "virtio": [device.save()],
    }
    board.close()
    return saved


def damage(source: Source, saved: Any) -> Any:
    """A copy of the state with one change somewhere."""
    if isinstance(saved, dict) and saved and source.below(8):
        name = source.pick(sorted(saved))
        if source.below(16) == 0:
            return {key: one for key, one in saved.items() if key != name}
        return {**saved, name: damage(source, saved[name])}
    if isinstance(saved, list) and saved and source.below(8):
        at = source.below(len(saved))
        return [*saved[:at], damage(source, saved[at]), *saved[at + 1 :]]
    if isinstance(saved, str) and BASE64.fullmatch(saved) and source.chance():
        data = bytearray(base64.b64decode(saved))
        for _ in range(1 + source.below(4)):
            data[source.below(len(data))] = source.bits(8)
        return encode_bytes(data)
    return source.number(64) if type(saved) is int and source.below(4) else value(source)


def snapshot(source: Source) -> None:
    """A changed state file is refused, or restored completely."""
    if source.below(8) == 0:
        parse(source.raw(40) if source.chance() else json.dumps(value(source)).encode())
        return
    state_file = saved_machine()
    for _ in range(source.below(4)):
        state_file = damage(source, state_file)
    saved = StateReader("machine", json.loads(json.dumps(state_file)))
    for part in saved.read_objects("vcpus", 1):
        state._read_saved(part, VCPU_PARTS)
        state._read_entries(part, "msrs", structs.MSR_ENTRY)
        state._read_entries(part, "cpuid", structs.CPUID_ENTRY)
        part.read_int("tsc_khz", 1 << 31)
    state._read_saved(saved.read_object("vm"), state._VM)
    serial, pm1 = Serial(lambda byte: None, lambda level: None), Pm1()
    saved.read_object("serial").restore_attributes(serial)
    saved.read_object("pm1").restore_attributes(pm1)
    assert len(serial._registers) == 8
    assert all(0 <= serial.read(offset, 1) < 256 for offset in range(8))
    assert 0 <= pm1.read(2, 2) < 1 << 32
    backend = FakeBackend()
    board = Board(memory(), backend)
    try:
        board.bridge.restore(saved.read_object("pci"))
        (part,) = saved.read_objects("virtio", 1)
        board.devices[0].restore(part)
        board.devices[0].resume()
        assert all(is_ring(queue.ring) for queue in backend.started or ())
        board.devices[0].write(20, 1, 0)  # a reset by the driver
        assert backend.started is None
    finally:
        board.close()


@cache
def file() -> int:
    return os.memfd_create("kernel")


def elf(source: Source) -> bytes:
    """An ELF kernel with some wrong fields."""
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


def bzimage_of(source: Source) -> bytes:
    """A bzImage with some wrong fields."""
    fields = {}
    for name in HEADER:
        if source.below(8) == 0:
            kind, _ = HEADER[name]
            fields[name] = source.number(8 * struct.calcsize(kind))
    return bzimage(bytes(16), **fields) + source.raw(source.below(9))


def kernel(source: Source) -> None:
    """A kernel, its initramfs and its start information. Errors are never guest faults."""
    try:
        load(source)
    except GuestFault as error:
        raise AssertionError("a file caused a guest fault") from error


def load(source: Source) -> None:
    fd = file()
    data = elf(source) if source.chance() else bzimage_of(source)
    guest = memory(source.pick((64, 64, 64, 1, 2, 4)) << 20)
    os.truncate(fd, 0)
    os.pwrite(fd, data.ljust(source.pick((8192, 8192, 8192, len(data))), b"\0"), 0)
    loaded = kernel_file.load_kernel(guest, f"/proc/self/fd/{fd}", source.pick(BOOT_PROTOCOLS))
    assert loaded.entry > 0
    assert loaded.end <= guest.size
    assert len(linux.zero_page(loaded, None, guest.size)) == 4096
    os.truncate(fd, source.pick((1, 4096, 0, source.number(24))))
    path = source.pick((f"/proc/self/fd/{fd}", f"/proc/self/fd/{fd}", "/proc", "/dev/null"))
    initramfs = None
    if source.chance():
        initramfs = pvh.load_initramfs(guest, path, loaded)
        assert loaded.end <= initramfs[0] < sum(initramfs) <= guest.size
    text = source.raw(source.below(5)).decode("latin-1") * source.pick((1, 1, 1000, 2000))
    pvh.write_start_info(guest, text, initramfs, 1 + source.below(255))
