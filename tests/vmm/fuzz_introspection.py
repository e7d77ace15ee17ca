"""Fuzz targets: payloads, and introspection requests."""

from __future__ import annotations

import os
from typing import Any, cast

from harness.agent.control import answer_request
from harness.agent.introspection import CHUNK, IntrospectionServer
from harness.kvm import ioctls, structs
from harness.kvm.errors import GuestFault, MachineEnd
from harness.kvm.vcpu import Vcpu
from harness.vmm.boot import flat as boot
from harness.vmm.chipset import Chipset
from harness.vmm.config import Config
from harness.vmm.devices.pci import IO_START, MMIO_START
from harness.vmm.machine import Machine
from harness.vmm.vcpu import VcpuThread
from harness.vmm.virtio_devices import VirtioDevices
from tests.vmm.fakes import Board, FakeVcpu
from tests.vmm.fuzz import Source
from tests.vmm.fuzz_devices import MEMORY, disks, memory, mostly
from tests.vmm.fuzz_inputs import file, value

REASONS = (*ioctls.EXIT_NAMES.values(), "tea")
KINDS = ("exception", "nmi", "triple-fault", "machine-check", "disk-error", "bad-used", "meteor")


class FakeIntrospectionServer(IntrospectionServer):
    """A server whose callbacks are answered at once, from the input."""

    source: Source

    def call_back(self, event: str, **fields: Any) -> int | None:
        if self.source.below(16) == 0:
            raise MachineEnd("callback-error", "as told")
        return self.source.number(64) if self.source.chance() else None


def machine(source: Source) -> tuple[Machine, Board, FakeVcpu]:
    guest, board = Machine.__new__(Machine), Board(memory())
    vcpu = FakeVcpu(board.buses)
    guest.vm, guest.buses, guest.memory = cast(Any, board.vm), board.buses, memory()
    guest.chipset, guest.virtio = Chipset.__new__(Chipset), VirtioDevices.__new__(VirtioDevices)
    guest.chipset.bridge, guest.virtio.backends = board.bridge, [disks()[0]]
    guest.guest_started = source.below(8) == 0
    guest.vcpus = [cast(VcpuThread, vcpu)]
    return guest, board, vcpu


def hook(source: Source) -> dict[str, Any]:
    at = source.pick((None, 0xD00, MMIO_START, source.number(64)))
    return {"reason": source.pick(REASONS), "at": at, "nth": source.pick((0, 1, 2, -1))}


def bars(source: Source) -> list[Any]:
    sizes = (16, 64, 4096, 8, 48, 1 << 25, source.number(64))
    return [[source.pick(sizes), source.chance()] for _ in range(source.below(8))]


def arguments(source: Source) -> dict[str, dict[str, Any]]:
    """Nearly correct arguments for each operation."""
    number, small = source.number(64), source.below(40) - 1
    names = (*structs.REGISTER_NAMES, *structs.CONTROL_NAMES, "xmm0", "cs")
    at = source.pick((0, MEMORY - 1, MEMORY - CHUNK, MEMORY, number, -1))
    return {
        "registers": {"vcpu": mostly(source, 0, 1, -1)},
        "set_registers": {"vcpu": 0, "values": {source.pick(names): number}},
        "step": {"vcpu": 0, "cancel": source.chance()},
        "read_memory": {"gpa": at, "size": source.pick((0, 1, CHUNK, CHUNK + 1, -1, number))},
        "write_memory": {"gpa": at, "data": source.pick(("", "AAAA", "A", "\x80", "AAAA" * 99))},
        "log_dirty_pages": {"on": source.chance()},
        "dirty_log_slots": {},
        "dirty_bitmap": {"slot": small, "at": source.pick((0, 1, CHUNK, -1, number))},
        "add_exit_hook": hook(source),
        "remove_exit_hook": {"hook": small},
        "reply": {"call": small, "value": source.pick((None, number, "x"))},
        "add_port_device": {
            "port": source.pick((0xD00, 0x3F8, 0xCF8, number)),
            "length": source.pick((1, 16, 0, number)),
            "irq": source.pick((None, 5, 24)),
        },
        "add_pci_device": {
            "vendor": mostly(source, 0x1234, 0xFFFF, -1),
            "device": mostly(source, 1, 1 << 16),
            "class_code": mostly(source, 0xFF0000, 1 << 24),
            "bars": bars(source),
            "vectors": source.pick((0, 1, 64, 65, number)),
        },
        "interrupt": {"device": small, "vector": source.pick((0, 1, 63, number))},
        "inject_fault": {
            "kind": source.pick(KINDS),
            "exit": source.pick((None, hook(source))),
            "vector": source.pick((0, 13, 31, 32)),
            "error_code": source.pick((None, 0, number)),
        },
        "fail_request": {"kind": source.pick(KINDS), "device": "serial", "nth": small},
    }


def introspection(source: Source) -> None:
    """Operations in any order, then guest accesses with all hooks and devices."""
    guest, board, vcpu = machine(source)
    server = FakeIntrospectionServer(guest)
    server.source = source
    operations = server.operations()
    try:
        for _ in range(source.below(12)):
            nearly = arguments(source)
            name = source.pick(tuple(nearly))
            chosen: Any = nearly[name]
            for _ in range(source.below(2)):
                chosen[source.pick((*chosen, "unknown"))] = value(source, 1)
            answer = answer_request(operations, {"op": name, "arguments": chosen}, {})
            assert ("result" in answer) != ("error" in answer)
        board.buses.mmio.read(MMIO_START, 4)
        while source:
            access(source, vcpu)
    finally:
        close(guest, board)


def access(source: Source, vcpu: FakeVcpu) -> None:
    """A guest's access to ports, memory or configuration space."""
    size = source.pick((1, 2, 4))
    if source.below(4) == 0:
        vcpu.pio.write(0xCF8, 4, 0x8000_0000 | source.below(4) << 11 | source.below(64) << 2)
        vcpu.pio.write(0xCFC, size, source.number(8 * size))
    bus, start = source.pick(((vcpu.pio, IO_START), (vcpu.mmio, MMIO_START), (vcpu.pio, 0xD00)))
    at = start + source.pick((0, 1, 16, source.number(13)))
    if source.chance():
        assert 0 <= bus.read(at, size) < 1 << 8 * size
    else:
        bus.write(at, size, source.number(8 * size))
    if source.below(16) == 0:
        vcpu.on_final_exit(source.pick((ioctls.EXIT_SHUTDOWN, ioctls.EXIT_HLT, 99)))


def close(guest: Machine, board: Board) -> None:
    """Close the eventfds, which otherwise close when a guest's process ends, and clear the
    faults of the disk that all inputs share."""
    board.close()
    disks()[0].faults.clear()
    for function in board.bridge.functions.values():
        for kind in function.bars.values():
            for fd in getattr(kind.device, "eventfds", ()):
                os.close(fd)


def flat(source: Source) -> None:
    """A payload of any segments in any mode is loaded into guest memory, or refused."""
    guest, fd = memory(), file()
    os.truncate(fd, mostly(source, 8192, 0, 1, 4096, 1 << 20))
    wild = (0, 0x4FF, 0x500, 0x1000, MEMORY - 16, MEMORY, source.number(64), -1)
    segments = [
        {
            "gpa": mostly(source, source.pick((0x7000, 0x7C00, MEMORY - 4096)), *wild),
            "path": "/absent" if source.below(16) == 0 else f"/proc/self/fd/{fd}",
            "offset": mostly(source, 0, 1, 4096, source.number(64)),
            "size": mostly(source, source.pick((0, 1, 16, 4096)), 1 << 20, source.number(64), -1),
        }
        for _ in range(1 + source.below(3))
    ]
    config = Config.parse(
        {
            "payload": segments,
            "mode": "virtual" if source.below(16) == 0 else source.pick(boot.MODES),
            "entry": mostly(source, 0x7C00, *wild),
            "registers": {source.pick((*structs.REGISTER_NAMES, "xmm0")): source.number(64)},
        }
    )
    vcpu = FakeVcpu(Board(guest).buses)
    try:
        boot.load(guest, cast(Vcpu, vcpu), config)
    except GuestFault as error:
        raise AssertionError("a file caused a guest fault") from error
    assert vcpu.registers()["rflags"] & 2 or "rflags" in config.registers
