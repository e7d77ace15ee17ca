"""Fakes of a vCPU, a VM and a backend, and a board without a machine."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable
from typing import Any, cast

from harness.kvm import structs
from harness.kvm.vm import Vm
from harness.vmm.devices.bus import Buses, Device
from harness.vmm.devices.pci import HostBridge
from harness.vmm.devices.virtio.queue import Ring
from harness.vmm.devices.virtio.transport import ActiveQueue, VirtioPci
from harness.vmm.memory import Memory

F_VERSION_1 = 1 << 32


class FakeVcpu:
    """A vCPU without KVM. Its state is a few dictionaries."""

    fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)  # refuses KVM's ioctls
    in_callback = active = False
    thread = None

    def __init__(self, buses: Buses) -> None:
        self.index = 0
        self.run_control = self.stepper = self
        self.pio: Device = buses.pio
        self.mmio: Device = buses.mmio
        self.on_final_exit: Callable[[int], object] = lambda reason: None
        self.paused = False
        self._general = dict.fromkeys(structs.REGISTER_NAMES, 0)
        self._special: dict[str, tuple[int, ...]] = {}
        for names, count in (
            (structs.SEGMENT_NAMES, len(structs.Segment._fields)),
            (structs.TABLE_NAMES, 2),
            (structs.CONTROL_NAMES, 1),
        ):
            self._special.update(dict.fromkeys(names, (0,) * count))

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def registers(self) -> dict[str, int]:
        return dict(self._general)

    def set_registers(self, values: dict[str, int]) -> None:
        self._general = {name: values.get(name, 0) for name in structs.REGISTER_NAMES}
        structs.REGS.pack(*self._general.values())

    def special(self) -> dict[str, tuple[int, ...]]:
        return dict(self._special)

    def set_special(self, values: dict[str, tuple[int, ...]]) -> None:
        for name, fields in values.items():
            assert len(fields) == len(self._special[name])
            struct.pack(f"<{len(fields)}Q", *fields)
        self._special.update(values)

    def defer(self, action: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):  # there is no KVM
            action()

    def step(self, timeout: float) -> bool:
        return True

    def cancel(self) -> None:
        self.paused = True


class FakeVm:
    """A VM without KVM. It refuses what KVM refuses."""

    def __init__(self) -> None:
        self.gsis = 24
        self.routes: dict[int, tuple[int, int]] = {}
        self.irqfds: dict[int, int] = {}
        self.ioeventfds: dict[int, int] = {}
        self.readonly: dict[int, tuple[int, int]] = {}

    def add_memory(self, gpa: int, size: int, hva: int, readonly: bool = False) -> None:
        assert readonly
        self.readonly[gpa] = size, hva

    def set_irq_line(self, gsi: int, level: int) -> None:
        assert 0 <= gsi < 24
        assert level in (0, 1)

    def allocate_gsi(self) -> int:
        self.gsis += 1
        return self.gsis - 1

    def route_msi(self, gsi: int, address: int, data: int) -> None:
        assert 24 <= gsi < self.gsis
        assert 0 <= address < 1 << 64
        assert 0 <= data < 1 << 32
        self.routes[gsi] = (address, data)

    def irqfd(self, fd: int, gsi: int, assign: bool = True) -> None:
        if not assign:
            assert self.irqfds.pop(fd) == gsi
        elif fd in self.irqfds:
            raise OSError(errno.EBUSY, "irqfd")
        else:
            assert gsi in self.routes
            self.irqfds[fd] = gsi

    def ioeventfd_pio(self, fd: int, port: int, length: int, assign: bool = True) -> None:
        if assign and port in self.ioeventfds:
            raise OSError(errno.EEXIST, "ioeventfd")
        if not assign and self.ioeventfds.get(port) != fd:
            raise OSError(errno.ENOENT, "ioeventfd")
        if assign:
            self.ioeventfds[port] = fd
        else:
            del self.ioeventfds[port]


class FakeBackend:
    """A virtio device of two queues that records how it was started."""

    name = "fake"
    device_type = 42
    class_code = 0x00FF00
    queues = 2
    features = 0b101
    config = bytes(range(12))
    own_config = False

    def __init__(self) -> None:
        self.started: list[ActiveQueue] | None = None
        self.accepted = 0
        self.log: list[str] = []

    def restore_config(self, config: bytes) -> bool:
        return config == self.config

    def start(self, memory: Memory, queues: list[ActiveQueue], features: int) -> None:
        assert self.started is None, "started twice"
        self.started, self.accepted = queues, features
        self.log.append("start")

    def write_config(self, offset: int, data: bytes) -> None:
        self.log.append("config")

    def stop(self) -> dict[int, int]:
        assert self.started is not None, "stopped, but it was not running"
        bases = {queue.number: queue.base for queue in self.started}
        self.started = None
        self.log.append("stop")
        return bases


class Board:
    """Buses, a PCI bridge and virtio devices, as a guest sees them."""

    def __init__(self, memory: Memory, *backends: Any) -> None:
        self.vm = FakeVm()
        self.memory = memory
        self.buses = Buses()
        self.bridge = HostBridge(self.buses)
        self.devices: list[VirtioPci] = []
        for backend in backends:
            device = VirtioPci(cast(Vm, self.vm), memory, backend)
            self.bridge.add(device.function)
            self.devices.append(device)

    def close(self) -> None:
        """Close the eventfds, which otherwise close when a guest's process ends."""
        for device in self.devices:
            for fd in device._msix.eventfds + [queue.kick for queue in device._queues]:
                os.close(fd)


RING = Ring(8, 0x1000, 0x2000, 0x3000)
