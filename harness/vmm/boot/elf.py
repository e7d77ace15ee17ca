"""The loadable segments and the entry of an ELF file (the gABI's program headers)."""

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
# format of a program header, and the indices of its physical address, offset and file size
_SEGMENTS = {
    32: (struct.Struct("<IIIIIIII"), 3, 1, 4),
    64: (struct.Struct("<IIQQQQQQ"), 4, 2, 5),
}
_MACHINES = {3, 62}  # i386, x86-64
_PT_LOAD = 1


class ElfImage(NamedTuple):
    """bits: 32 or 64. entry: an address. segments: physical address, file offset, size in bytes."""

    bits: int
    entry: int
    segments: list[tuple[int, int, int]]


def parse(data: bytes) -> ElfImage:
    """The loadable segments of an x86 ELF file. Raises ConfigError."""
    bits = _BITS.get(data[4]) if len(data) > 5 and data[5] == 1 else None
    if bits is None or len(data) < 16 + _HEADERS[bits].size - 16:
        raise _load_error("it is not a little-endian ELF file of 32 or 64 bits")
    _, machine, _, entry, offset, _, _, _, size, count, *_ = _HEADERS[bits].unpack_from(data)
    if machine not in _MACHINES:
        raise _load_error(f"its machine is {machine}, not x86")
    layout, address_at, offset_at, size_at = _SEGMENTS[bits]
    if size != layout.size or offset + size * count > len(data):
        raise _load_error("its program headers lie outside the file")
    segments = []
    for number in range(count):
        fields = layout.unpack_from(data, offset + number * size)
        start, length = fields[offset_at], fields[size_at]
        if fields[0] != _PT_LOAD or not length:
            continue
        if start + length > len(data):
            raise _load_error("it is truncated")
        segments.append((fields[address_at], start, length))
    if not segments:
        raise _load_error("it has no segment to load")
    return ElfImage(bits, entry, segments)


def _load_error(problem: str) -> ConfigError:
    return ConfigError(
        f"the payload cannot be loaded: {problem}",
        "link it statically for x86, with physical addresses",
    )
