"""Guests of a few instructions: 32-bit assembly in an ELF kernel with a PVH entry."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

BASE = 0x10_0000

# "hello" on the serial port, for payloads to start with
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


def assemble(source: str, folder: Path) -> bytes:
    """Flat 32-bit machine code, to run at BASE."""
    code = folder / "payload.s"
    code.write_text(f".code32\n.globl _start\n_start:\n{source}\n")
    objects, linked, flat = (folder / f"payload.{kind}" for kind in ("o", "elf", "bin"))
    steps: tuple[list[str | Path], ...] = (
        ["as", "--32", "-o", objects, code],
        ["ld", "-m", "elf_i386", f"-Ttext={BASE:#x}", "-o", linked, objects],
        ["objcopy", "-O", "binary", "-j", ".text", linked, flat],
    )
    for argv in steps:
        subprocess.run(argv, check=True, capture_output=True)
    return flat.read_bytes()


def elf(code: bytes, note: bool = True) -> bytes:
    """A 64-bit ELF of one segment at BASE, and a Xen note of type 18 that names its entry."""
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


def kernel(source: str, folder: Path) -> str:
    """The path of a kernel that runs `source`."""
    path = folder / "kernel"
    path.write_bytes(elf(assemble(source, folder)))
    return str(path)
