"""Virtio over PCI (virtio 1.2, 4.1), modern only: common configuration, notification, MSI-X.

Queue notification is a port write: KVM finds the ioeventfd by the port number alone. For a memory
write, KVM would first have to decode the guest's instruction.
"""

from __future__ import annotations

import struct
from typing import Any, Callable, ClassVar, NamedTuple

from harness.kvm.errors import ConfigError, GuestFault
from harness.kvm.vm import Vm, eventfd, signal_eventfd

from ...memory import Memory
from ...state_reader import HINT, StateReader, encode_bytes, save_attributes
from ..msix import Msix
from ..pci import BarKind, Function
from .queue import MAX_SIZE, Ring

F_INDIRECT = 1 << 28
F_EVENT_INDEX = 1 << 29
F_VERSION_1 = 1 << 32

_DRIVER_OK, _FEATURES_OK = 4, 8
_NO_VECTOR = 0xFFFF
_BAR, _NOTIFY_BAR = 0, 2
_COMMON, _ISR, _DEVICE, _MSIX = 0x0000, 0x1000, 0x2000, 0x3000
_VENDOR_CAPABILITY = 9
_CFG_COMMON, _CFG_NOTIFY, _CFG_ISR, _CFG_DEVICE = 1, 2, 3, 4
_COMMON_SIZE = 56


class ActiveQueue(NamedTuple):
    """A queue that the driver has enabled. Its ring was checked.

    kick: an eventfd that the guest signals. call: an eventfd that KVM turns into the queue's
    interrupt; -1 if the guest wants none. base: the index to continue at; 0 unless the queue was
    suspended.
    """

    number: int
    ring: Ring
    kick: int
    call: int
    base: int = 0


class Backend:
    """A virtio device without its transport.

    device_type: virtio 1.2, 5. class_code: for PCI. features: without VERSION_1. queues: how many.
    config: the device configuration space. data_plane: where its queues are processed: "in
    process", "in kernel" (vhost) or "vhost-user". config_changed: set by the transport; call it
    after a change of `config` to notify the driver.
    """

    name: str
    device_type: int
    class_code: int
    features: int
    queues: int
    config: bytes
    data_plane = "in process"
    config_changed: Callable[[], None] = staticmethod(lambda: None)

    def write_config(self, offset: int, data: bytes) -> None:
        """Handle a driver's write to the device configuration space. Most devices ignore it."""

    def restore_config(self, config: bytes) -> bool:
        """Set a snapshot's device configuration space. False if it is another device's."""
        return config == self.config

    def counters(self) -> dict[str, int]:
        """The device's counters, for the machine's statistics."""
        return {}

    def poll(self) -> None:
        """Called ten times a second while the machine runs. Raises GuestFault or MachineEnd."""

    def start(self, memory: Memory, queues: list[ActiveQueue], features: int) -> None:
        """Start processing queues: the driver is ready. Raises GuestFault for a wrong set-up."""
        raise NotImplementedError

    def stop(self) -> dict[int, int]:
        """Stop before a reset or a snapshot; afterwards the device accesses no guest memory.
        Returns the base of each queue, see ActiveQueue."""
        raise NotImplementedError


class _QueueState:
    """One queue's registers."""

    STATE: ClassVar = {
        **{"size": 1 << 16, "vector": 1 << 16, "enabled": 2, "base": 1 << 16},
        **{"addresses": 1 << 64},
    }

    def __init__(self) -> None:
        self.kick = eventfd(nonblocking=False)
        self.reset()

    def reset(self) -> None:
        self.size = MAX_SIZE
        self.vector = _NO_VECTOR
        self.enabled = False
        self.addresses = [0, 0, 0]  # descriptor table, available ring, used ring
        self.base = 0


class VirtioPci:
    """One virtio device as a PCI function, on the memory bus behind its BAR."""

    STATE: ClassVar = {
        **{"_device_select": 1 << 32, "_driver_select": 1 << 32, "_queue_select": 1 << 32},
        **{"_running": 2, "_status": 1 << 8, "_driver_features": 1 << 64},
        **{"_config_vector": 1 << 16, "_generation": 1 << 8, "_config_unread": 2},
    }

    def __init__(self, vm: Vm, memory: Memory, backend: Backend) -> None:
        self._vm = vm
        self._memory = memory
        self.backend = backend
        self._queues = [_QueueState() for _ in range(backend.queues)]
        self._device_features = backend.features | F_VERSION_1
        self._running = False
        self._suspended = False  # running as the guest sees it, but the backend is stopped
        self.function = Function(
            0x1AF4, 0x1040 + backend.device_type, backend.class_code, 0x40 + backend.device_type
        )
        ports = max(16, 1 << (2 * backend.queues - 1).bit_length())
        self.function.add_bar(_BAR, BarKind(0x4000, False, self))
        self.function.add_bar(_NOTIFY_BAR, BarKind(ports, True, _Notify(self)))
        self._add_capabilities(ports)
        self._msix = Msix(vm, self.function, backend.queues + 1, _BAR, _MSIX)
        self.function.on_config_write = self._msix.on_config_write
        self.function.on_map = self._on_map
        self._generation = 0
        self._config_unread = False  # the driver has not read config since its last change
        backend.config_changed = self._config_changed
        self._reset()

    def _add_capabilities(self, ports: int) -> None:
        for kind, bar, offset, length, extra in (
            (_CFG_COMMON, _BAR, _COMMON, _COMMON_SIZE, b""),
            (_CFG_NOTIFY, _NOTIFY_BAR, 0, ports, struct.pack("<I", 2)),
            (_CFG_ISR, _BAR, _ISR, 1, b""),
            (_CFG_DEVICE, _BAR, _DEVICE, max(len(self.backend.config), 4), b""),
        ):
            body = struct.pack("<BBB3xII", 16 + len(extra), kind, bar, offset, length)
            self.function.add_capability(_VENDOR_CAPABILITY, body + extra)

    def _reset(self) -> None:
        if self._running and not self._suspended:
            self.backend.stop()
        self._running = self._suspended = False
        self._status = 0
        self._device_select = self._driver_select = self._queue_select = 0
        self._driver_features = 0
        self._config_vector = _NO_VECTOR
        for queue in self._queues:
            queue.reset()

    def _on_map(self, index: int, address: int | None) -> None:
        """Connect the queues' eventfds to the notify ports, wherever the guest maps them."""
        if index != _NOTIFY_BAR:
            return
        if address is not None:
            self._notify_address = address
        for number, queue in enumerate(self._queues):
            self._vm.ioeventfd_pio(
                queue.kick, self._notify_address + 2 * number, 2, assign=address is not None
            )

    def _config_changed(self) -> None:
        self._generation = (self._generation + 1) & 0xFF
        self._config_unread = True
        if self._running:
            self._interrupt(self._config_vector)

    def _interrupt(self, vector: int) -> None:
        if vector != _NO_VECTOR:
            signal_eventfd(self._msix.eventfds[vector])

    def kick(self, number: int) -> None:
        """Handle a notification that caused an exit: its width does not match the eventfd."""
        if number >= len(self._queues):
            raise GuestFault(
                f"{self.backend.name}: the guest kicked queue {number}, which does not exist"
            )
        signal_eventfd(self._queues[number].kick)

    # the memory BAR

    def read(self, offset: int, size: int) -> int:
        if offset >= _MSIX:
            return self._msix.read(offset - _MSIX, size)
        if offset >= _DEVICE:
            self._config_unread = False
            at = offset - _DEVICE
            return int.from_bytes(self.backend.config[at : at + size], "little")
        if offset >= _ISR:
            return 0  # used with INTx only, which this device lacks
        return self._read_common(offset)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset >= _MSIX:
            self._msix.write(offset - _MSIX, size, value)
        elif offset < _COMMON_SIZE:
            self._write_common(offset, size, value)
        elif offset >= _DEVICE:
            self.backend.write_config(offset - _DEVICE, value.to_bytes(size, "little"))

    def _selected(self) -> _QueueState | None:
        return self._queues[self._queue_select] if self._queue_select < len(self._queues) else None

    def _read_common(self, offset: int) -> int:
        queue = self._selected()
        if 32 <= offset < _COMMON_SIZE:
            if not queue:
                return 0
            index, high = divmod(offset - 32, 8)
            return queue.addresses[index] >> (8 * high)
        read = _COMMON_READS.get(offset)
        return read(self, queue) if read else 0

    @staticmethod
    def _window(features: int, select: int) -> int:
        return (features >> (32 * select)) & 0xFFFF_FFFF if select < 2 else 0

    def _write_common(self, offset: int, size: int, value: int) -> None:
        if offset == 0:
            self._device_select = value
        elif offset == 8:
            self._driver_select = value
        elif offset == 12:
            if self._driver_select < 2 and not self._status & _FEATURES_OK:
                shift = 32 * self._driver_select
                self._driver_features &= ~(0xFFFF_FFFF << shift)
                self._driver_features |= value << shift
        elif offset == 16:
            self._config_vector = self._vector(value)
        elif offset == 20:
            self._set_status(value)
        elif offset == 22:
            self._queue_select = value
        elif offset >= 24:
            queue = self._selected()
            if not queue:
                number = self._queue_select
                raise GuestFault(
                    f"{self.backend.name}: the guest set up queue {number}, which does not exist"
                )
            if not self._running:
                self._write_queue(queue, offset, size, value)

    def _write_queue(self, queue: _QueueState, offset: int, size: int, value: int) -> None:
        if offset == 24:
            queue.size = value
        elif offset == 26:
            queue.vector = self._vector(value)
        elif offset == 28:
            queue.enabled = value == 1
        elif 32 <= offset < _COMMON_SIZE:
            index, at = divmod(offset - 32, 8)
            mask = (1 << 8 * size) - 1
            old = queue.addresses[index]
            queue.addresses[index] = (old & ~(mask << 8 * at)) | (value << 8 * at)

    def _vector(self, value: int) -> int:
        """The vector, or NO_VECTOR if the device lacks it (virtio 1.2, 4.1.5.1.2)."""
        return value if value < len(self._msix) else _NO_VECTOR

    def _set_status(self, value: int) -> None:
        if value == 0:
            self._reset()
            return
        if value & _FEATURES_OK and not self._status & _FEATURES_OK:
            unknown = self._driver_features & ~self._device_features
            legal = self._driver_features & F_VERSION_1 and not unknown
            if not legal:
                value &= ~_FEATURES_OK
        if self._running and not value & _DRIVER_OK:
            # virtio 1.2, 2.1.1: only a reset clears status bits
            raise GuestFault(f"{self.backend.name}: the guest cleared status bits without a reset")
        started = value & _DRIVER_OK and not self._status & _DRIVER_OK
        self._status = value
        if started and value & _FEATURES_OK and not self._running:
            self._start()

    def _start(self) -> list[ActiveQueue]:
        queues = []
        for index, queue in enumerate(self._queues):
            if not queue.enabled:
                continue
            ring = Ring(queue.size, *queue.addresses)
            ring.check(self._memory)
            call = -1 if queue.vector == _NO_VECTOR else self._msix.eventfds[queue.vector]
            queues.append(ActiveQueue(index, ring, queue.kick, call, queue.base))
        self.backend.start(self._memory, queues, self._driver_features)
        self._running = True
        return queues

    # snapshot

    def suspend(self) -> None:
        """Stop the backend; afterwards the device accesses no guest memory."""
        if self._running:
            for number, base in self.backend.stop().items():
                self._queues[number].base = base
            self._suspended = True

    def resume(self) -> None:
        """Start the backend where it was suspended. A clone's guest may run already, and may have
        reset the device."""
        if not self._suspended:
            return
        self._suspended = False
        queues = self._start()
        # Events in the eventfds are lost and are signalled again. A spurious kick does no harm; an
        # interrupt makes a clone touch memory, so it is sent only where it may be due.
        if self._config_unread:
            self._interrupt(self._config_vector)
        for queue in self._queues:
            queue.base = 0
        for one in queues:
            signal_eventfd(one.kick)
            has_event_index = self._driver_features & F_EVENT_INDEX
            if not has_event_index or not one.ring.interrupt_suppressed(self._memory):
                self._interrupt(self._queues[one.number].vector)

    def save(self) -> dict[str, Any]:
        """The state of a suspended device."""
        return {
            **save_attributes(self),
            "config": encode_bytes(self.backend.config),
            "queues": [save_attributes(queue) for queue in self._queues],
            "msix": save_attributes(self._msix),
        }

    def restore(self, saved: StateReader) -> None:
        """Set a snapshot's state, after the PCI configuration space; resume() then starts it.
        Raises ConfigError, or GuestFault for a malformed ring."""
        saved.restore_attributes(self)
        if missing := self._driver_features & ~self._device_features:
            cause = f"{self.backend.name} of this host lacks the snapshot's features {missing:#x}"
            raise ConfigError(cause, HINT)
        if not self.backend.restore_config(saved.read_bytes("config", None)):
            raise saved.error("config", f"this {self.backend.name} is another")
        for queue, part in zip(self._queues, saved.read_objects("queues", len(self._queues))):
            part.restore_attributes(queue)
            queue.vector = self._vector(queue.vector)
        self._config_vector = self._vector(self._config_vector)
        self._suspended = self._running
        self._msix.restore(saved.read_object("msix"))


# reads of the common configuration by offset, without the addresses; None: no such queue
_COMMON_READS: dict[int, Callable[[VirtioPci, _QueueState | None], int]] = {
    0: lambda device, queue: device._device_select,
    4: lambda device, queue: device._window(device._device_features, device._device_select),
    8: lambda device, queue: device._driver_select,
    12: lambda device, queue: device._window(device._driver_features, device._driver_select),
    16: lambda device, queue: device._config_vector,
    18: lambda device, queue: len(device._queues),
    20: lambda device, queue: device._status,
    21: lambda device, queue: device._generation,
    22: lambda device, queue: device._queue_select,
    24: lambda device, queue: queue.size if queue else 0,
    26: lambda device, queue: queue.vector if queue else _NO_VECTOR,
    28: lambda device, queue: int(queue.enabled) if queue else 0,
    30: lambda device, queue: device._queue_select,
}


class _Notify:
    """The notify ports, for writes that no eventfd handles."""

    def __init__(self, transport: VirtioPci) -> None:
        self._transport = transport

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self._transport.kick(offset // 2)
