"""Payloads: assembly as flat code, or in an ELF kernel with a PVH entry."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from harness.guest.payload import BASES, assemble

BASE = BASES["protected"]

# prints "hi" on the serial port
HELLO = """
    mov $0x3f8, %dx
    mov $'h', %al ; out %al, %dx
    mov $'i', %al ; out %al, %dx
    mov $10, %al ; out %al, %dx
"""
POWER_OFF = """
    mov $0x604, %dx
    mov $(1 << 13 | 5 << 10), %ax
    out %ax, %dx
"""
FOR_EVER = "9: hlt ; jmp 9b"


def elf(code: bytes, note: bool = True) -> bytes:
    """A 64-bit ELF with one segment at BASE, and a Xen note of type 18 with its entry."""
    body = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", BASE) if note else b""
    count = 2 if note else 1
    start = 64 + 56 * count
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01".ljust(16, b"\0"),
        *(2, 62, 1, BASE, 64, 0, 0, 64, 56, count, 0, 0, 0),
    )
    segments = struct.pack(
        "<IIQQQQQQ", 1, 7, start + len(body), BASE, BASE, len(code), len(code), 16
    )
    if note:
        segments += struct.pack("<IIQQQQQQ", 4, 4, start, 0, 0, len(body), len(body), 4)
    return header + segments + body + code


def bzimage(code: bytes, **fields: int) -> bytes:
    """A bzImage with 64-bit code for BASE + 0x200. fields: header fields to replace."""
    paragraphs = (0x200 + len(code) + 15) // 16
    values = {
        "setup_sects": 1,
        "syssize": paragraphs,
        "boot_flag": 0xAA55,
        "jump": 0x6AEB,
        "version": 0x20F,
        "initrd_addr_max": 0x7FFF_FFFF,
        "xloadflags": 1,
        "pref_address": BASE,
        "init_size": 0x10_0000,
        **fields,
    }
    data = bytearray(1024)
    data[0x202:0x206] = b"HdrS"
    for name, value in values.items():
        kind, at = HEADER[name]
        struct.pack_into(f"<{kind}", data, at, value)
    return bytes(data) + bytes(0x200) + code.ljust(16 * paragraphs - 0x200, b"\0")


# fields of the setup header: kind, offset (Documentation/arch/x86/boot.rst)
HEADER = {
    "setup_sects": ("B", 0x1F1),
    "syssize": ("I", 0x1F4),
    "boot_flag": ("H", 0x1FE),
    "jump": ("H", 0x200),
    "version": ("H", 0x206),
    "initrd_addr_max": ("I", 0x22C),
    "xloadflags": ("H", 0x236),
    "pref_address": ("Q", 0x258),
    "init_size": ("I", 0x260),
}


def kernel(source: str, folder: Path) -> str:
    """Write a kernel that runs `source`. Returns its path."""
    path = folder / "kernel"
    path.write_bytes(elf(assemble(source)))
    return str(path)


def flat(source: str, folder: Path, mode: str = "protected") -> dict[str, Any]:
    """Write `source` as a payload. Returns the fields of its configuration."""
    path, base = folder / "payload", BASES[mode]
    path.write_bytes(code := assemble(source, mode))
    segment = {"gpa": base, "path": str(path), "offset": 0, "size": len(code)}
    return {"payload": [segment], "mode": mode, "entry": base}
