"""Reads kernel files, Debian's or the user's, and unpacks them for a VMM."""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import lz4.block

from harness.errors import ImageError
from harness.vmm.boot.kernel import FIRMWARE_HINT, is_bzimage, needs_firmware

_ELF = b"\x7fELF"
_PT_LOAD, _PT_NOTE = 1, 4
_XEN_ELFNOTE_PHYS32_ENTRY = 18  # xen/include/public/elfnote.h: the PVH entry
_LZ4_LEGACY_BLOCK = 8 << 20
_HINT = (
    "use a bzImage or vmlinux of Linux for x86-64 built with CONFIG_PVH=y;"
    " unpack other formats first with extract-vmlinux of the Linux sources"
)


def read_vmlinux(path: Path, pvh: bool = True) -> bytes:
    """The checked ELF image of a kernel file; a bzImage is unpacked.

    Boot protocol: Documentation/x86/boot.rst in the Linux sources.

    Args:
        pvh: require a PVH entry.

    Raises:
        ImageError: the file is no kernel, truncated, in an unsupported format, or without PVH.
    """
    data = read_kernel(path)
    elf = data if data.startswith(_ELF) else _decompress(path, data)
    _check(path, elf, pvh)
    return elf


def read_kernel(path: Path) -> bytes:
    """The unchanged contents of a vmlinux or bzImage. Raises ImageError for other files."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _kernel_error(path, f"cannot be read: {error.strerror}") from None
    if kind := needs_firmware(data[:1024]):
        raise _kernel_error(path, f"is {kind}, which needs firmware to boot", FIRMWARE_HINT)
    if not data.startswith(_ELF) and not is_bzimage(data):
        raise _kernel_error(path, "is no Linux kernel: neither ELF nor bzImage")
    return data


def _kernel_error(path: Path, problem: str, hint: str = _HINT) -> ImageError:
    return ImageError(f"kernel {path} {problem}", hint=hint, stage="image")


def _decompress(path: Path, data: bytes) -> bytes:
    if len(data) < 0x260:
        raise _kernel_error(path, "is truncated: its header is missing")
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = ((data[0x1F1] or 4) + 1) * 512 + offset
    payload = data[start : start + length]
    if len(payload) < max(length, 8):
        raise _kernel_error(
            path, f"is truncated: {len(data)} bytes, its header says {start + length}"
        )
    for name, magic, decompress in _COMPRESSIONS:
        if payload.startswith(magic):
            if decompress is None:
                raise _kernel_error(path, f"is compressed with {name}, which is not supported")
            try:
                return decompress(payload)
            except (zlib.error, lzma.LZMAError, lz4.block.LZ4BlockError, OSError, EOFError) as e:
                raise _kernel_error(
                    path, f"is broken: its {name} payload does not unpack ({e})"
                ) from None
    raise _kernel_error(path, f"is compressed in an unknown format (magic {payload[:4].hex()})")


def _lz4(payload: bytes) -> bytes:
    """The legacy LZ4 stream: blocks behind their lengths; the kernel appends the total size."""
    parts = []
    position = 4
    while position + 8 <= len(payload):
        (size,) = struct.unpack_from("<I", payload, position)
        block = payload[position + 4 : position + 4 + size]
        if len(block) < size:
            raise EOFError("a block ends early")
        parts.append(lz4.block.decompress(block, uncompressed_size=_LZ4_LEGACY_BLOCK))
        position += 4 + size
    return b"".join(parts)


# The kernel's uncompressed size follows the stream; one-shot functions reject such a tail.
_COMPRESSIONS: tuple[tuple[str, bytes, Callable[[bytes], bytes] | None], ...] = (
    ("lz4", b"\x02\x21\x4c\x18", _lz4),
    ("gzip", b"\x1f\x8b", lambda data: zlib.decompressobj(31).decompress(data)),
    ("xz", b"\xfd7zXZ", lambda data: lzma.LZMADecompressor().decompress(data)),
    ("bzip2", b"BZh", lambda data: bz2.BZ2Decompressor().decompress(data)),
    ("lzma", b"\x5d\x00\x00", lambda data: lzma.LZMADecompressor().decompress(data)),
    ("zstd", b"\x28\xb5\x2f\xfd", None),
    ("lzo", b"\x89LZO", None),
)


def _check(path: Path, elf: bytes, pvh: bool) -> None:
    # e_ident: 64-bit, little endian; e_machine: x86-64
    if len(elf) < 64 or elf[4:6] != b"\x02\x01" or struct.unpack_from("<H", elf, 18)[0] != 62:
        raise _kernel_error(path, "is no 64-bit x86 ELF file")
    notes = b""
    for kind, offset, size in _program_headers(path, elf):
        if offset + size > len(elf):
            raise _kernel_error(
                path, f"is truncated: a segment ends at {offset + size} of {len(elf)} bytes"
            )
        if kind == _PT_NOTE:
            notes += elf[offset : offset + size]
    if pvh and not any(_notes(notes, b"Xen\0", _XEN_ELFNOTE_PHYS32_ENTRY)):
        raise _kernel_error(path, "has no PVH entry")


def _program_headers(path: Path, elf: bytes) -> Iterator[tuple[int, int, int]]:
    """Type, offset and size in the file of each segment."""
    table, size, count = (*struct.unpack_from("<Q", elf, 32), *struct.unpack_from("<HH", elf, 54))
    if table + size * count > len(elf) or size < 56:
        raise _kernel_error(path, "is truncated: its program headers are missing")
    for index in range(count):
        base = table + index * size
        (kind,) = struct.unpack_from("<I", elf, base)
        (offset,) = struct.unpack_from("<Q", elf, base + 8)
        (length,) = struct.unpack_from("<Q", elf, base + 32)
        yield kind, offset, length


def _notes(data: bytes, owner: bytes, kind: int) -> Iterator[bytes]:
    position = 0
    while position + 12 <= len(data):
        name_size, size, note_kind = struct.unpack_from("<III", data, position)
        name = position + 12
        body = name + (name_size + 3) // 4 * 4
        if data[name : name + name_size] == owner and note_kind == kind:
            yield data[body : body + size]
        position = body + (size + 3) // 4 * 4
