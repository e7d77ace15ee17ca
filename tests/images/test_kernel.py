"""Kernel files: bzImages are unpacked, other files give clear errors."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import lz4.block
import pytest

from harness.errors import ImageError
from images.kernel import read_kernel, read_vmlinux


def elf(*, pvh: bool = True, machine: int = 62) -> bytes:
    """A small ELF with one PT_LOAD and one PT_NOTE segment."""
    kind = 18 if pvh else 1
    note = struct.pack("<III", 4, 4, 99) + b"GNU\0" + bytes(4)
    note += struct.pack("<III", 4, 8, kind) + b"Xen\0" + struct.pack("<Q", 0x1000000)
    code = bytes(range(256)) * 64
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    offset = 64 + 2 * 56
    notes = struct.pack("<IIQQQQQQ", 4, 4, offset, 0, 0, len(note), len(note), 4)
    load = struct.pack("<IIQQQQQQ", 1, 5, offset + len(note), 0, 0, len(code), len(code), 4096)
    return head + notes + load + note + code


def lz4_legacy(data: bytes) -> bytes:
    packed = b"\x02\x21\x4c\x18"
    for start in range(0, len(data), 8 << 20):
        block = lz4.block.compress(data[start : start + (8 << 20)], store_size=False)
        packed += struct.pack("<I", len(block)) + block
    return packed


def bzimage(payload: bytes, unpacked_size: int) -> bytes:
    payload += struct.pack("<I", unpacked_size)
    setup = bytearray(3 * 512)
    setup[0x1F1] = 2
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", setup, 0x248, 100, len(payload))
    return bytes(setup) + bytes(100) + payload + bytes(64)


def write(folder: Path, data: bytes) -> Path:
    path = folder / "kernel"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "pack",
    [lz4_legacy, gzip.compress, lzma.compress, bz2.compress],
    ids=lambda pack: pack.__module__,
)
def test_bzimage_is_unpacked(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    data = elf()
    assert read_vmlinux(write(tmp_path, bzimage(pack(data), len(data)))) == data


def test_lz4_with_several_blocks_is_unpacked(tmp_path: Path) -> None:
    data = elf() + bytes(9 << 20)
    assert read_vmlinux(write(tmp_path, bzimage(lz4_legacy(data), len(data)))) == data


def test_vmlinux_is_read_unchanged(tmp_path: Path) -> None:
    assert read_vmlinux(write(tmp_path, elf())) == elf()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"#!/bin/sh\necho no kernel\n", "is no Linux kernel"),
        (b"", "is no Linux kernel"),
        (bytes(4096), "is no Linux kernel"),
        (elf()[:4000], "is truncated: a segment ends"),
        (elf()[:80], "is truncated: its program headers"),
        (elf()[:40], "is no 64-bit x86 ELF file"),
        (elf(machine=183), "is no 64-bit x86 ELF file"),
        (elf(pvh=False), "has no PVH entry"),
        (bzimage(lz4_legacy(elf()), 1)[:1700], "is truncated: 1700 bytes"),
        (bzimage(b"\x28\xb5\x2f\xfd" + bytes(50), 1), "zstd, which is not supported"),
        (bzimage(b"????" + bytes(50), 1), "compressed in an unknown format"),
        (bzimage(gzip.compress(elf())[:40] + bytes(99), 1), "does not unpack"),
        (bzimage(b"\x02\x21\x4c\x18" + b"\xff" * 50, 1), "does not unpack"),
    ],
)
def test_error_for_an_invalid_kernel_names_the_problem(
    tmp_path: Path, data: bytes, problem: str
) -> None:
    path = write(tmp_path, data)
    with pytest.raises(ImageError) as caught:
        read_vmlinux(path)
    assert problem in caught.value.cause
    assert str(path) in caught.value.cause
    assert "CONFIG_PVH" in caught.value.hint


def test_vmlinux_needs_no_note_without_pvh(tmp_path: Path) -> None:
    assert read_vmlinux(write(tmp_path, elf(pvh=False)), pvh=False) == elf(pvh=False)


def test_read_kernel_returns_the_file_unchanged(tmp_path: Path) -> None:
    packed = bzimage(lz4_legacy(elf()), 1)
    assert read_kernel(write(tmp_path, packed)) == packed


@pytest.mark.parametrize("reader", [read_vmlinux, read_kernel])
def test_disk_image_is_no_kernel(tmp_path: Path, reader: Callable[[Path], bytes]) -> None:
    with pytest.raises(ImageError, match="is a disk with a DOS/MBR boot sector") as caught:
        reader(write(tmp_path, bytes(510) + b"\x55\xaa" + bytes(4096)))
    assert "extract its kernel and initramfs" in caught.value.hint


def test_missing_file_raises_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        read_vmlinux(tmp_path / "nothing")
