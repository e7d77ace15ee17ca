"""MSI-X (PCI 3.0, 6.8.2): a table of messages that the guest writes, each with an eventfd.

A device signals a vector's eventfd, and KVM injects the message by irqfd. The VMM acts only when
the guest changes the table.
"""

from __future__ import annotations

import struct
from typing import ClassVar

from harness.kvm.vm import Vm, eventfd

from ..state_reader import StateReader
from .pci import Function

CAPABILITY = 0x11
_ENTRY = struct.Struct("<QII")  # address, data, vector control (bit 0: masked)
_ENABLE, _FUNCTION_MASK = 0x8000, 0x4000


class Msix:
    """The MSI-X table of one function. A BAR contains it."""

    STATE: ClassVar = {"_table": 0}

    def __init__(self, vm: Vm, function: Function, vectors: int, bar: int, offset: int) -> None:
        """bar, offset: where the table lies. The pending bits follow the table and are always 0: a
        masked vector's event stays in its eventfd until the vector is unmasked."""
        self._vm = vm
        self._function = function
        self._table = bytearray(_ENTRY.pack(0, 0, 1) * vectors)
        self.eventfds = [eventfd() for _ in range(vectors)]
        self._gsis = [vm.allocate_gsi() for _ in range(vectors)]
        self._assigned = [False] * vectors
        body = struct.pack("<HII", vectors - 1, offset | bar, (offset + len(self._table)) | bar)
        self._capability = function.add_capability(CAPABILITY, body, b"\0\xc0")

    def __len__(self) -> int:
        return len(self.eventfds)

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._table[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        if offset + size > len(self._table):
            return
        self._table[offset : offset + size] = value.to_bytes(size, "little")
        for vector in {offset // _ENTRY.size, (offset + size - 1) // _ENTRY.size}:
            self._apply(vector)

    def on_config_write(self, offset: int, size: int) -> None:
        """Apply the message control register: enable, function mask."""
        if offset <= self._capability + 3 and offset + size > self._capability + 2:
            for vector in range(len(self)):
                self._apply(vector)

    def restore(self, saved: StateReader) -> None:
        """Set a snapshot's table, after the function's configuration space. Raises ConfigError."""
        saved.restore_attributes(self)
        for vector in range(len(self)):
            self._apply(vector)

    def _apply(self, vector: int) -> None:
        """Set a vector's route and irqfd to what the table says."""
        address, data, control = _ENTRY.unpack_from(self._table, vector * _ENTRY.size)
        message_control = self._function.read_config(self._capability + 2, 2)
        live = message_control & (_ENABLE | _FUNCTION_MASK) == _ENABLE and not control & 1
        gsi, fd = self._gsis[vector], self.eventfds[vector]
        if live:
            self._vm.route_msi(gsi, address, data)
        if live != self._assigned[vector]:
            # an event that came while the vector was masked is in the eventfd; KVM injects it now
            self._vm.irqfd(fd, gsi, assign=live)
            self._assigned[vector] = live
