"""A PCI host bridge with one bus: configuration space, BARs, capabilities.

Source: PCI Local Bus Specification 3.0, chapter 6 (header type 0) and 3.2.2.3.2 (mechanism #1, by
ports 0xCF8/0xCFC); PCI Express Base Specification 3.0, 7.2.2 (ECAM, in memory).
"""

from __future__ import annotations

import fcntl
import functools
import mmap
import os
import struct
from typing import Any, Callable, ClassVar, NamedTuple

from harness.kvm.vm import Vm

from ..memory import Region
from ..state_reader import StateReader, save_attributes
from .bus import Bus, Buses, Device

CONFIG_ADDRESS = 0xCF8
CONFIG_DATA = 0xCFC
MMIO_START, MMIO_SIZE = 0xC000_0000, 0x2000_0000
IO_START, IO_SIZE = 0x1000, 0xE000
ECAM_START, ECAM_SIZE = 0xE000_0000, 1 << 20  # of one bus: 32 slots of 8 functions of 4 KiB
_SLOT_SHIFT, _CONFIG_SIZE = 15, 256

_COMMAND, _STATUS, _BAR0, _CAPABILITIES = 0x04, 0x06, 0x10, 0x34
_COMMAND_IO, _COMMAND_MEMORY, _COMMAND_WRITABLE = 1, 2, 0x0407
_STATUS_CAPABILITIES = 0x10


class BarKind(NamedTuple):
    """size: in bytes, a power of two. io: ports, not memory. device: serves the range."""

    size: int
    io: bool
    device: Device


class Function:
    """One PCI function: 256 bytes of configuration space with a mask of what the guest may write.

    config: lies in memory that the guest reads, if HostBridge.enable_ecam was called.
    """

    STATE: ClassVar = {"config": 0}

    def __init__(self, vendor: int, device: int, class_code: int, subsystem: int = 0) -> None:
        """class_code: 24 bits, class, subclass and programming interface."""
        self.config: bytearray | memoryview = bytearray(_CONFIG_SIZE)
        self._writable = bytearray(_CONFIG_SIZE)
        struct.pack_into("<HH", self.config, 0, vendor, device)
        struct.pack_into("<I", self.config, 8, class_code << 8 | 1)
        struct.pack_into("<HH", self.config, 0x2C, vendor, subsystem)
        struct.pack_into("<H", self._writable, _COMMAND, _COMMAND_WRITABLE)
        self._writable[0x3C] = 0xFF  # interrupt line: for software's use
        self._bars: dict[int, BarKind] = {}
        self._mapped: dict[int, int] = {}
        self._next_capability = 0x40
        self._last_link = _CAPABILITIES
        self.buses: Buses | None = None
        # called with offset and size after a guest's write to configuration space
        self.on_config_write: Callable[[int, int], None] = lambda offset, size: None
        # called with index and address when a BAR has moved; None when it is disabled
        self.on_map: Callable[[int, int | None], None] = lambda index, address: None

    def add_bar(self, index: int, kind: BarKind) -> None:
        """Add a BAR, without an address yet."""
        self._bars[index] = kind
        at = _BAR0 + 4 * index
        mask = ~(kind.size - 1) & 0xFFFF_FFFF
        struct.pack_into("<I", self._writable, at, mask)
        struct.pack_into("<I", self.config, at, 1 if kind.io else 0)

    def add_capability(self, identifier: int, body: bytes, writable: bytes = b"") -> int:
        """Append a capability and return its offset. body: what follows its id and link.
        writable: the mask of the body's bytes."""
        at = self._next_capability
        self.config[self._last_link] = at
        self.config[at : at + 2 + len(body)] = bytes([identifier, 0]) + body
        self._writable[at + 2 : at + 2 + len(writable)] = writable
        self._last_link = at + 1
        self._next_capability = (at + 2 + len(body) + 3) & ~3
        self.config[_STATUS] |= _STATUS_CAPABILITIES
        return at

    def read_config(self, offset: int, size: int) -> int:
        """Read configuration space as the guest does."""
        return int.from_bytes(self.config[offset : offset + size], "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Write the writable bits of configuration space, as the guest does."""
        mask = int.from_bytes(self._writable[offset : offset + size], "little")
        new = (self.read_config(offset, size) & ~mask) | (value & mask)
        # in one store: another vCPU may read it
        self.config[offset : offset + size] = new.to_bytes(size, "little")
        if offset < _CAPABILITIES:
            self._remap()
        self.on_config_write(offset, size)

    def restore(self, saved: StateReader) -> None:
        """Set a snapshot's configuration space. Raises ConfigError if it is another device's."""
        before = bytes(self.config)
        saved.restore_attributes(self)
        pairs = zip(before, self.config, self._writable)
        if any((old ^ new) & ~mask for old, new, mask in pairs):
            raise saved.error("config", "another device's")
        self._remap()

    def bar_address(self, index: int) -> int | None:
        """The address of a BAR; None if it is disabled or outside the bridge's windows."""
        kind = self._bars[index]
        enabled = _COMMAND_IO if kind.io else _COMMAND_MEMORY
        if not self.config[_COMMAND] & enabled:
            return None
        (raw,) = struct.unpack_from("<I", self.config, _BAR0 + 4 * index)
        address = raw & ~(kind.size - 1) & 0xFFFF_FFFF
        start, size = (IO_START, IO_SIZE) if kind.io else (MMIO_START, MMIO_SIZE)
        # nothing decodes outside the bridge's windows, so a guest cannot shadow other devices
        if not start <= address <= start + size - kind.size:
            return None
        return int(address)

    def set_bar(self, index: int, address: int) -> None:
        """Set a BAR's address, as firmware does before the guest starts."""
        struct.pack_into(
            "<I", self.config, _BAR0 + 4 * index, address | (1 if self._bars[index].io else 0)
        )

    @property
    def bars(self) -> dict[int, BarKind]:
        return self._bars

    def _remap(self) -> None:
        assert self.buses is not None
        for index, kind in self._bars.items():
            address = self.bar_address(index)
            old = self._mapped.get(index)
            if address == old:
                continue
            bus = self.buses.pio if kind.io else self.buses.mmio
            if old is not None:
                bus.remove(old)
                del self._mapped[index]
                self.on_map(index, None)
            if address is not None and _add(bus, address, kind):
                self._mapped[index] = address
                self.on_map(index, address)


def _add(bus: Bus, address: int, kind: BarKind) -> bool:
    """Map a BAR. False if another range is there: the guest moves BARs one after the other."""
    try:
        bus.add(address, kind.size, kind.device)
    except ValueError:
        return False
    return True


class HostBridge:
    """Bus 0 and its functions. Slot 0 is the bridge.

    ports: the ports to configuration space; None after enable_ecam(). on_reset_control: called with
    a value written to the reset control register, port 0xCF9, which lies in the range of the
    address port.
    """

    on_reset_control: Callable[[int], None] = staticmethod(lambda value: None)

    def __init__(self, buses: Buses) -> None:
        self.buses = buses
        self.functions: dict[int, Function] = {}
        self.ports: ConfigPorts | None = ConfigPorts(self)
        self._ecam: Region | None = None
        self._next_mmio = MMIO_START
        self._next_io = IO_START
        self.add(Function(0x1B36, 0x0008, 0x060000))  # Red Hat's generic host bridge: no quirks
        buses.pio.add(CONFIG_ADDRESS, 8, self.ports)

    def add(self, function: Function) -> int:
        """Put a function into the next slot and set its BARs' addresses. Returns the slot."""
        slot = len(self.functions)
        if slot >= 32:
            raise ValueError("all 32 slots of the PCI bus are used")
        self.functions[slot] = function
        function.buses = self.buses
        for index, kind in function.bars.items():
            if kind.io:
                start = (self._next_io + kind.size - 1) & ~(kind.size - 1)
                self._next_io = start + kind.size
            else:
                start = (self._next_mmio + kind.size - 1) & ~(kind.size - 1)
                self._next_mmio = start + kind.size
            function.set_bar(index, start)
        if self._ecam:
            _map_function(self._ecam, slot, function)
        return slot

    def enable_ecam(self, vm: Vm) -> None:
        """Map configuration space into memory that the guest reads without an exit, and remove the
        ports. Linux reads it a thousand times in a boot, and prefers ports where they work."""
        self._ecam = Region(ECAM_START, ECAM_SIZE, unclaimed_config_space(), 0, mmap.MAP_PRIVATE)
        vm.add_memory(ECAM_START, ECAM_SIZE, self._ecam.hva, readonly=True)
        self.buses.mmio.add(ECAM_START, ECAM_SIZE, _Ecam(self, self._ecam))
        for slot, function in self.functions.items():
            _map_function(self._ecam, slot, function)
        self.ports = None
        self.buses.pio.remove(CONFIG_ADDRESS)
        self.buses.pio.add(CONFIG_ADDRESS + 1, 1, _ResetControl(self))

    def save(self) -> dict[str, Any]:
        """The state of the ports and of all functions."""
        functions = [save_attributes(function) for function in self.functions.values()]
        return {"ports": save_attributes(self.ports) if self.ports else {}, "functions": functions}

    def restore(self, saved: StateReader) -> None:
        """Set a snapshot's state. Raises ConfigError."""
        if self.ports:
            saved.read_object("ports").restore_attributes(self.ports)
        parts = saved.read_objects("functions", len(self.functions))
        for function, part in zip(self.functions.values(), parts):
            function.restore(part)


class ConfigPorts:
    """Configuration mechanism #1: an address port and a data port."""

    STATE: ClassVar = {"_address": 1 << 32}

    def __init__(self, bridge: HostBridge) -> None:
        self._bridge = bridge
        self._address = 0

    def _target(self, offset: int) -> tuple[Function, int] | None:
        """The function and the register that an access to the data port selects."""
        address = self._address
        if not address & 0x8000_0000 or address & 0x00FF_0700:
            return None
        function = self._bridge.functions.get((address >> 11) & 0x1F)
        return (function, (address & 0xFC) + offset - 4) if function else None

    def read(self, offset: int, size: int) -> int:
        if offset < 4:
            return self._address if (offset, size) == (0, 4) else (1 << 8 * size) - 1
        target = self._target(offset)
        if target is None:
            return (1 << 8 * size) - 1
        function, register = target
        return function.read_config(register, size)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset < 4:
            if (offset, size) == (0, 4):
                self._address = value
            elif (offset, size) == (1, 1):
                self._bridge.on_reset_control(value)
            return
        target = self._target(offset)
        if target:
            function, register = target
            function.write_config(register, size, value)


class _ResetControl:
    """Port 0xCF9 on a machine without an address port."""

    def __init__(self, bridge: HostBridge) -> None:
        self._bridge = bridge

    def read(self, offset: int, size: int) -> int:
        return 0xFF

    def write(self, offset: int, size: int, value: int) -> None:
        self._bridge.on_reset_control(value)


class _Ecam:
    """Configuration space in memory, for the accesses that cause exits: all writes."""

    def __init__(self, bridge: HostBridge, ecam: Region) -> None:
        self._bridge = bridge
        self._bytes = ecam.bytes

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        slot, register = offset >> _SLOT_SHIFT, offset & (1 << _SLOT_SHIFT) - 1
        function = self._bridge.functions.get(slot)
        if function and register + size <= _CONFIG_SIZE:
            function.write_config(register, size, value)


def _map_function(ecam: Region, slot: int, function: Function) -> None:
    """Move a function's configuration space to where the guest reads it."""
    start = slot << _SLOT_SHIFT
    view = ecam.bytes[start : start + _CONFIG_SIZE]
    view[:] = function.config
    function.config = view


@functools.cache
def unclaimed_config_space() -> int:
    """The descriptor of a sealed file with the contents of ECAM where there is no function.

    All processes of one parent share it, if the parent calls this function before it forks.
    """
    fd = os.memfd_create("pci", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, b"\xff" * ECAM_SIZE)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd
