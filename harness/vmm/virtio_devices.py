"""A machine's virtio devices, built from its configuration."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Callable, NamedTuple

from harness.kvm.vm import Vm

from .config import Config
from .console import Console
from .devices.pci import HostBridge
from .devices.virtio.balloon import Balloon
from .devices.virtio.block import Block
from .devices.virtio.console import VirtioConsole
from .devices.virtio.net import Net
from .devices.virtio.passt import Passt, PasstConnection
from .devices.virtio.pmem import Pmem
from .devices.virtio.rng import Rng
from .devices.virtio.transport import Backend, VirtioPci
from .devices.virtio.vhost_user_block import StorageBackend, VhostUserBlock
from .devices.virtio.vsock import Vsock
from .memory import Memory
from .state_reader import StateReader


class HostResources(NamedTuple):
    """Processes and descriptors that the host prepares for a machine.

    storage: serves the disks whose backend is "vhost-user". networks: a tap's descriptor or a passt
    for each network, in the configuration's order. memory_file: an empty memory file, if another
    process is to map guest memory, too; -1 for none.
    """

    storage: StorageBackend | None = None
    networks: Sequence[int | PasstConnection] = ()
    memory_file: int = -1


class VirtioDevices:
    """transports: the devices as PCI functions. backends: the devices without their transport."""

    def __init__(
        self,
        config: Config,
        resources: HostResources,
        vm: Vm,
        memory: Memory,
        *,
        console: Console | None,
        end_machine: Callable[[BaseException], None],
    ) -> None:
        """console: receives what the guest writes to hvc0. end_machine: called with what ends the
        machine. Raises ConfigError."""
        self.vsock = Vsock() if config.vsock else None
        self.balloon = Balloon(end_machine) if config.balloon else None
        self.hvc = VirtioConsole(console.write, end_machine) if console else None
        rng = Rng(end_machine) if config.rng else None
        self.backends: list[Backend] = _disks(config, resources, end_machine)
        if config.pmem:
            self.backends.append(Pmem(vm, memory, config.pmem, end_machine))
        self.backends += [one for one in (self.vsock, rng, self.balloon, self.hvc) if one]
        self.backends += _networks(config, resources, end_machine)
        self.transports = [VirtioPci(vm, memory, backend) for backend in self.backends]

    def attach(self, bridge: HostBridge) -> None:
        """Put all devices on the PCI bus."""
        for transport in self.transports:
            bridge.add(transport.function)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """No device touches guest memory inside the block."""
        suspended: list[VirtioPci] = []
        try:
            for transport in self.transports:
                transport.suspend()
                suspended.append(transport)
            yield
        finally:
            for transport in suspended:
                transport.resume()

    def save(self) -> list[dict[str, Any]]:
        """The state of all devices, which are suspended."""
        return [transport.save() for transport in self.transports]

    def restore(self, states: list[StateReader], vm: Vm) -> None:
        """Set a snapshot's state; the devices stay suspended. Raises ConfigError, GuestFault."""
        with vm.batch_routing():
            for transport, state in zip(self.transports, states):
                transport.restore(state)


def _disks(
    config: Config, resources: HostResources, end_machine: Callable[[BaseException], None]
) -> list[Backend]:
    numbers = itertools.count()
    storage = resources.storage
    return [
        VhostUserBlock(disk, storage, next(numbers))
        if storage and disk.backend == "vhost-user"
        else Block(disk.path, disk.serial, disk.readonly, disk.direct, end_machine)
        for disk in config.disks
    ]


def _networks(
    config: Config, resources: HostResources, end_machine: Callable[[BaseException], None]
) -> list[Backend]:
    return [
        Net(network.mac, link) if isinstance(link, int) else Passt(network.mac, link, end_machine)
        for network, link in zip(config.networks, resources.networks)
    ]
