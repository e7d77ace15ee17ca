"""What of an ELF file belongs into memory, and where it starts (the gABI's program headers)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from harness.kvm.errors import ConfigError

MAGIC = b"\x7fELF"
_BITS = {1: 32, 2: 64}
_HEADERS = {
    32: struct.Struct("<16xHHIIIIIHHHHHH"),
    64: struct.Struct("<16xHHIQQQIHHHHHH"),
}
# physical address, offset and file size in what _SEGMENTS unpacks
_SEGMENTS = {
    32: (struct.Struct("<IIIIIIII"), 3, 1, 4),
    64: (struct.Struct("<IIQQQQQQ"), 4, 2, 5),
}
_MACHINES = {3, 62}  # i386, x86-64
_PT_LOAD = 1


class Loadable(NamedTuple):
    """bits: 32 or 64. entry: an address. segments: (physical address, offset, size in bytes)."""

    bits: int
    entry: int
    segments: list[tuple[int, int, int]]


def parse(data: bytes) -> Loadable:
    """The loadable segments of an x86 ELF file. Raises ConfigError."""
    bits = _BITS.get(data[4]) if len(data) > 5 and data[5] == 1 else None
    if bits is None or len(data) < 16 + _HEADERS[bits].size - 16:
        raise _broken("no little-endian ELF file of 32 or 64 bits")
    _, machine, _, entry, offset, _, _, _, size, count, *_ = _HEADERS[bits].unpack_from(data)
    if machine not in _MACHINES:
        raise _broken(f"its machine is {machine}, not x86")
    layout, address_at, offset_at, size_at = _SEGMENTS[bits]
    if size != layout.size or offset + size * count > len(data):
        raise _broken("its program headers are not in the file")
    segments = []
    for number in range(count):
        fields = layout.unpack_from(data, offset + number * size)
        start, length = fields[offset_at], fields[size_at]
        if fields[0] != _PT_LOAD or not length:
            continue
        if start + length > len(data):
            raise _broken("it is truncated")
        segments.append((fields[address_at], start, length))
    if not segments:
        raise _broken("it has nothing to load")
    return Loadable(bits, entry, segments)


def _broken(why: str) -> ConfigError:
    return ConfigError(
        f"the payload cannot be loaded: {why}",
        "link it statically for x86, with physical addresses",
    )
