"""Encodes the ACPI Machine Language that the DSDT needs (ACPI 6.4, chapter 20)."""

from __future__ import annotations

import struct


def package_length(body: bytes) -> bytes:
    """PkgLength, which includes its own length (20.2.4)."""
    length = len(body)
    if length + 1 < 0x40:
        return bytes([length + 1])
    if length + 2 < 0x1000:
        length += 2
        return bytes([0x40 | (length & 0xF), length >> 4])
    length += 3
    return bytes([0x80 | (length & 0xF), (length >> 4) & 0xFF, length >> 12])


def path(name: str) -> bytes:
    r"""A name string such as "PCI0" or "\_SB_", padded to four characters."""
    root = b"\\" if name.startswith("\\") else b""
    return root + name.lstrip("\\").ljust(4, "_").encode()


def integer(value: int) -> bytes:
    """An integer in the shortest encoding (20.2.3)."""
    if value in (0, 1):
        return bytes([value])
    for prefix, fmt in ((0x0A, "<B"), (0x0B, "<H"), (0x0C, "<I")):
        if value < 1 << (8 * struct.calcsize(fmt)):
            return bytes([prefix]) + struct.pack(fmt, value)
    return b"\x0e" + struct.pack("<Q", value)


def name(identifier: str, value: bytes) -> bytes:
    """DefName: a named object (20.2.5.1)."""
    return b"\x08" + path(identifier) + value


def package(*elements: bytes) -> bytes:
    """DefPackage (20.2.5.4)."""
    body = bytes([len(elements)]) + b"".join(elements)
    return b"\x12" + package_length(body) + body


def scope(identifier: str, body: bytes) -> bytes:
    """DefScope (20.2.5.1)."""
    inner = path(identifier) + body
    return b"\x10" + package_length(inner) + inner


def device(identifier: str, body: bytes) -> bytes:
    """DefDevice (20.2.5.2)."""
    inner = path(identifier) + body
    return b"\x5b\x82" + package_length(inner) + inner


def eisa_id(text: str) -> bytes:
    """An id such as "PNP0A03" as a compressed 32-bit number (19.3.4)."""
    letters = [ord(letter) - 0x40 for letter in text[:3]]
    value = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | int(text[3:], 16)
    return b"\x0c" + struct.pack(">I", value)


def buffer(data: bytes) -> bytes:
    """DefBuffer (20.2.5.4)."""
    body = integer(len(data)) + data
    return b"\x11" + package_length(body) + body


def resources(*descriptors: bytes) -> bytes:
    """A resource template: descriptors, and an end tag without a checksum (6.4.2.9)."""
    return buffer(b"".join(descriptors) + b"\x79\0")


def io_ports(start: int, length: int) -> bytes:
    """I/O Port Descriptor, 16-bit decode (6.4.2.5)."""
    return struct.pack("<BBHHBB", 0x47, 1, start, start, 1, length)


def memory(start: int, length: int) -> bytes:
    """32-Bit Fixed Memory Range Descriptor, writable (6.4.3.4)."""
    return struct.pack("<BHBII", 0x86, 9, 1, start, length)


def bus_numbers(first: int, last: int) -> bytes:
    """Word Address Space Descriptor of bus numbers (6.4.3.5.3), fixed, producer."""
    return struct.pack("<BHBBBHHHHH", 0x88, 13, 2, 0x0C, 0, 0, first, last, 0, last - first + 1)


def io_window(start: int, length: int) -> bytes:
    """Word Address Space Descriptor of ports (6.4.3.5.3), fixed, producer."""
    end = start + length - 1
    return struct.pack("<BHBBBHHHHH", 0x88, 13, 1, 0x0C, 3, 0, start, end, 0, length)


def memory_window(start: int, length: int) -> bytes:
    """DWord Address Space Descriptor of memory (6.4.3.5.2), writable, uncacheable, producer."""
    end = start + length - 1
    return struct.pack("<BHBBBIIIII", 0x87, 23, 0, 0x0C, 1, 0, start, end, 0, length)
