"""QEMU's firmware configuration device, read by ports (QEMU's docs/specs/fw_cfg.rst)."""

from __future__ import annotations

import struct

SELECTOR = 0x510
_DATA = 1  # the port after the selector
_SIGNATURE, _ID, _RAM_SIZE, _CPUS, _MAX_CPUS, _DIRECTORY = 0x00, 0x01, 0x03, 0x05, 0x0F, 0x19
_ID_PORTS = 1  # no DMA interface


class FirmwareConfig:
    """Items by number, read byte by byte. Bytes past an item's end are 0."""

    def __init__(self, memory: int, cpus: int) -> None:
        """memory: in bytes."""
        self._items = {
            _SIGNATURE: b"QEMU",
            _ID: struct.pack("<I", _ID_PORTS),
            _RAM_SIZE: struct.pack("<Q", memory),
            _CPUS: struct.pack("<H", cpus),
            _MAX_CPUS: struct.pack("<H", cpus),
            _DIRECTORY: struct.pack(">I", 0),
        }
        self._item = b""
        self._at = 0

    def read(self, offset: int, size: int) -> int:
        if offset != _DATA or size != 1:
            return 0
        value = self._item[self._at] if self._at < len(self._item) else 0
        self._at += 1
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 0 and size == 2:
            self._item, self._at = self._items.get(value, b""), 0
