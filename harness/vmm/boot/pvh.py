"""PVH boot (Xen's docs/misc/pvh.pandoc): loads a vmlinux and writes its start information.

An uncompressed kernel needs no real mode, no decompression and no firmware.
"""

from __future__ import annotations

import io
import os
import struct
from typing import BinaryIO, NamedTuple

from harness.kvm.errors import ConfigError

from ..memory import GAP_END, GAP_START, Memory
from . import acpi

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_PT_LOAD, _PT_NOTE = 1, 4
_NOTE = struct.Struct("<III")  # namesz, descsz, type
_XEN_PHYS32_ENTRY = 18

_START_INFO, _MODULES, _MEMORY_MAP, COMMAND_LINE = 0x6000, 0x6100, 0x6200, 0x7000
_MAX_COMMAND_LINE = 2048  # COMMAND_LINE_SIZE of x86 Linux, which truncates silently
_START_MAGIC = 0x336E_C578
_RAM, _RESERVED = 1, 2
LOW_RAM_END = 0x9_FC00
# start information and tables that this package writes; the BIOS hole with the ACPI tables
_RESERVED_RANGES = ((0x500, 0x9000), (LOW_RAM_END, 0x10_0000))
_WORKING_SPACE = 32 << 20  # a kernel's need in addition to its image, until it frees its init data


class Kernel(NamedTuple):
    """A kernel in guest memory.

    entry: the vCPU's first instruction. long_mode: whether it executes in 64-bit mode, else in
    32-bit mode. end: the first free GPA. header: a bzImage's setup header. initramfs_end: the GPA
    below which an initramfs must end.
    """

    entry: int
    end: int
    long_mode: bool = False
    header: bytes = b""
    initramfs_end: int = GAP_START


def _hint(path: str) -> str:
    return f"use a vmlinux with a PVH entry (CONFIG_PVH) or a bzImage instead of {path}"


def truncated(path: str) -> ConfigError:
    """The error for a kernel file that ends too early."""
    return ConfigError(f"kernel {path} is truncated", "build or download it again")


def _read(file: BinaryIO, offset: int, size: int, path: str) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise truncated(path)
    return data


def _headers(file: BinaryIO, path: str) -> tuple[int, list[tuple[int, ...]]]:
    """The ELF header's entry, and the program headers. Raises ConfigError."""
    head = file.read(_EHDR.size)
    if len(head) < _EHDR.size or head[:6] != b"\x7fELF\x02\x01":
        raise ConfigError(f"{path} is not a 64-bit ELF kernel", _hint(path))
    fields = _EHDR.unpack(head)
    entry, offset, size, count = fields[4], fields[5], fields[9], fields[10]
    if size != _PHDR.size or not 0 < count <= 64:
        raise ConfigError(f"{path} has an invalid ELF program header", _hint(path))
    raw = _read(file, offset, size * count, path)
    return entry, [_PHDR.unpack_from(raw, at) for at in range(0, len(raw), size)]


def _entry(notes: bytes) -> int | None:
    """The PVH entry in a note segment, None if there is none."""
    at = 0
    while at + _NOTE.size <= len(notes):
        name_size, size, kind = _NOTE.unpack_from(notes, at)
        name_at = at + _NOTE.size
        body = name_at + ((name_size + 3) & ~3)
        if notes[name_at : name_at + 4] == b"Xen\0" and kind == _XEN_PHYS32_ENTRY:
            return int.from_bytes(notes[body : body + min(size, 8)], "little")
        at = body + ((size + 3) & ~3)
    return None


def load_elf(memory: Memory, file: BinaryIO, path: str, boot: str = "auto") -> Kernel:
    """Load a vmlinux's segments into guest memory. Raises ConfigError.

    boot: "pvh" for the note's entry, "linux64" for the ELF entry, "auto" for the first of them that
    the file has.
    """
    start, headers = _headers(file, path)
    note, end = None, 0
    for kind, _, offset, _, address, file_size, memory_size, _ in headers:
        if kind == _PT_NOTE and file_size < 1 << 20:
            note = _entry(_read(file, offset, file_size, path)) or note
        if kind != _PT_LOAD or not memory_size:
            continue
        end = max(end, address + memory_size)
        if file_size > memory_size:
            raise ConfigError(f"{path} has an invalid ELF program header", _hint(path))
        check_load_range(memory, path, address, address + memory_size)
        read_into(memory.view(address, file_size), file.fileno(), offset, truncated(path))
    if note is not None and boot != "linux64":
        return Kernel(note, end)
    if boot == "pvh":
        raise ConfigError(f"{path} has no PVH entry note", _hint(path))
    if not 0 < start < end:
        raise ConfigError(f"{path} has neither a PVH entry note nor an ELF entry", _hint(path))
    return Kernel(start, end, long_mode=True)


def check_load_range(memory: Memory, path: str, start: int, end: int) -> None:
    """Raises ConfigError for a kernel that exceeds memory, or overlaps the start information."""
    if end > memory.regions[0].size:
        needed = (end + _WORKING_SPACE) >> 20
        raise ConfigError(
            f"the kernel does not fit into {memory.size >> 20} MiB of memory",
            f"request at least {needed} MiB (--guest-memory)",
        )
    if any(start < stop and first < end for first, stop in _RESERVED_RANGES):
        raise ConfigError(
            f"{path} has a segment at {start:#x}, where its start information and ACPI tables lie",
            "link it to 1 MiB or above",
        )


def read_into(view: memoryview, fd: int, offset: int, truncated: ConfigError) -> None:
    """Read from a file until the view is full. Raises `truncated` if the file ends before."""
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if not count:
            raise truncated
        done += count


def load_initramfs(memory: Memory, path: str, kernel: Kernel) -> tuple[int, int]:
    """Load an initramfs at the top of low memory. Returns its address and its size in bytes."""
    try:
        with open(path, "rb", buffering=0) as file:
            return _load_initramfs(memory, file, path, kernel)
    except OSError as error:
        raise ConfigError(f"initramfs {path}: {error.strerror}", "check the path") from error


def _load_initramfs(memory: Memory, file: io.FileIO, path: str, kernel: Kernel) -> tuple[int, int]:
    size = file.seek(0, os.SEEK_END)  # works for a block device, too
    address = (min(memory.regions[0].size, kernel.initramfs_end) - size) & ~0xFFF
    if size == 0:
        raise ConfigError(f"initramfs {path} is empty", "build it again")
    if address < kernel.end + _WORKING_SPACE:
        needed = (kernel.end + size + _WORKING_SPACE) >> 20
        raise ConfigError(
            f"kernel and initramfs do not fit into {memory.size >> 20} MiB of memory",
            f"request at least {needed + 1} MiB (--guest-memory)",
        )
    error = ConfigError(f"initramfs {path} is truncated", "build it again")
    read_into(memory.view(address, size), file.fileno(), 0, error)
    return address, size


def memory_map(size: int) -> list[tuple[int, int, int]]:
    """The memory map of `size` bytes: address, size and type of each range; type 1 is free.

    It has low RAM, the BIOS hole with the ACPI tables, the other RAM, and a reserved range for the
    APICs and for Intel's real-mode emulation.
    """
    low = min(size, GAP_START)
    entries = [
        (0, LOW_RAM_END, _RAM),
        (LOW_RAM_END, 0x10_0000 - LOW_RAM_END, _RESERVED),
        (0x10_0000, low - 0x10_0000, _RAM),
        (GAP_END - 0x40_0000 - 0x100_0000, 0x140_0000, _RESERVED),
    ]
    return entries + ([(GAP_END, size - low, _RAM)] if size > low else [])


def write_common(memory: Memory, cmdline: str, vcpus: int) -> None:
    """Write the ACPI tables and the command line. Raises ConfigError."""
    text = os.fsencode(cmdline) + b"\0"
    if len(text) > _MAX_COMMAND_LINE:
        raise ConfigError(
            f"the kernel command line has {len(text)} bytes; the limit is {_MAX_COMMAND_LINE}",
            "shorten the command line",
        )
    memory.write(COMMAND_LINE, text)
    memory.write(acpi.BASE, acpi.tables(vcpus, ecam=True))


def write_start_info(
    memory: Memory, cmdline: str, initramfs: tuple[int, int] | None, vcpus: int
) -> int:
    """Write ACPI tables, command line and struct hvm_start_info. Returns the struct's address."""
    write_common(memory, cmdline, vcpus)
    entries = memory_map(memory.size)
    packed = b"".join(struct.pack("<QQII", *entry, 0) for entry in entries)
    memory.write(_MEMORY_MAP, packed)
    modules = 0
    if initramfs:
        memory.write(_MODULES, struct.pack("<QQQQ", *initramfs, 0, 0))
        modules = 1
    addresses = (_MODULES if modules else 0, COMMAND_LINE, acpi.BASE, _MEMORY_MAP)
    head = (_START_MAGIC, 1, 0, modules)  # magic, version, flags, count
    memory.write(_START_INFO, struct.pack("<IIIIQQQQII", *head, *addresses, len(entries), 0))
    return _START_INFO
