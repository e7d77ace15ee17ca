"""Stand-ins for what devices talk to: a VM whose kernel side is a few dictionaries, a backend."""

from __future__ import annotations

import errno
import os
from typing import Any, cast

from harness.vmm.devices.bus import Buses
from harness.vmm.devices.pci import HostBridge
from harness.vmm.devices.virtio.queue import Ring
from harness.vmm.devices.virtio.transport import StartedQueue, VirtioPci
from harness.vmm.kvm.vm import Vm
from harness.vmm.memory import Memory

F_VERSION_1 = 1 << 32


class FakeVm:
    """Keeps what KVM would keep, and refuses what KVM refuses."""

    def __init__(self) -> None:
        self.gsis = 24
        self.routes: dict[int, tuple[int, int]] = {}
        self.irqfds: dict[int, int] = {}
        self.ioeventfds: dict[int, int] = {}

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
    """A virtio device of two queues that only remembers how it was started."""

    name = "fake"
    device_type = 42
    class_code = 0x00FF00
    queues = 2
    features = 0b101
    config = bytes(range(12))

    def __init__(self) -> None:
        self.started: list[StartedQueue] | None = None
        self.accepted = 0
        self.log: list[str] = []

    def start(self, memory: Memory, queues: list[StartedQueue], features: int) -> None:
        assert self.started is None, "started twice"
        self.started, self.accepted = queues, features
        self.log.append("start")

    def stop(self) -> None:
        assert self.started is not None, "stopped, but it was not running"
        self.started = None
        self.log.append("stop")


class Board:
    """Buses, a PCI bridge and virtio devices, as a guest finds them."""

    def __init__(self, memory: Memory, *backends: Any) -> None:
        self.vm = FakeVm()
        self.buses = Buses()
        self.bridge = HostBridge(self.buses)
        self.devices: list[VirtioPci] = []
        for backend in backends:
            device = VirtioPci(cast(Vm, self.vm), memory, backend)
            self.bridge.add(device.function)
            self.devices.append(device)

    def close(self) -> None:
        """Close the eventfds, which a process of its own would close by its end."""
        for device in self.devices:
            for fd in device._msix.eventfds + [queue.kick for queue in device._queues]:
                os.close(fd)


RING = Ring(8, 0x1000, 0x2000, 0x3000)
