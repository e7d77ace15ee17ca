"""Linux's 64-bit boot protocol: loads a bzImage and writes the boot parameters.

Source: Documentation/arch/x86/boot.rst ("64-bit Boot Protocol") and zero-page.rst.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from harness.kvm.errors import ConfigError
from harness.kvm.vcpu import Vcpu

from ..config import Config
from ..memory import Memory
from . import acpi, flat, pvh
from .pvh import Kernel

MAGIC_AT, MAGIC = 0x202, b"HdrS"
_HEADER, _HEADER_END = 0x1F1, 0x290  # the setup header's place in struct boot_params
_VERSION = 0x20C  # 2.12: xloadflags
_XLF_KERNEL_64 = 1
_ENTRY = 0x200
_UNKNOWN_LOADER = 0xFF

_GDT, _ZERO_PAGE = 0x7F00, 0x8000
_E820_COUNT, _E820_TABLE, _RSDP = 0x1E8, 0x2D0, 0x070
_BOOT_CS, _BOOT_DS = 0x10, 0x18
_DESCRIPTORS = struct.pack("<4Q", 0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
# the setup header for a vmlinux, which has none: boot_flag, "HdrS", version
_MINIMAL_HEADER = struct.pack("<13xH2x4sH", 0xAA55, MAGIC, _VERSION)


def load_bzimage(memory: Memory, file: BinaryIO, path: str) -> Kernel:
    """Load a bzImage to its preferred address. Raises ConfigError."""
    file.seek(0)
    head = file.read(0x400)
    if len(head) < 0x400:
        raise pvh.truncated(path)
    (version,) = struct.unpack_from("<H", head, 0x206)
    (flags,) = struct.unpack_from("<H", head, 0x236)
    if version < _VERSION or not flags & _XLF_KERNEL_64:
        raise ConfigError(
            f"{path} has no 64-bit entry (boot protocol {version >> 8}.{version & 0xFF:02})",
            "use an x86-64 kernel of Linux 3.8 or later",
        )
    sectors = (head[_HEADER] or 4) + 1
    (paragraphs,) = struct.unpack_from("<I", head, 0x1F4)
    (address, init_size) = struct.unpack_from("<QI", head, 0x258)
    (initramfs_last,) = struct.unpack_from("<I", head, 0x22C)
    size = 16 * paragraphs
    end = address + max(size, init_size)
    if address < 0x10_0000 or size <= _ENTRY:
        raise ConfigError(
            f"{path} requests {size} bytes at {address:#x}", "build or download it again"
        )
    pvh.check_load_range(memory, path, address, end)
    pvh.read_into(memory.view(address, size), file.fileno(), 512 * sectors, pvh.truncated(path))
    header = head[_HEADER : min(MAGIC_AT + head[MAGIC_AT - 1], _HEADER_END)]
    return Kernel(address + _ENTRY, end, True, header, initramfs_last + 1)


def set_entry_state(
    memory: Memory, vcpu: Vcpu, kernel: Kernel, initramfs: tuple[int, int] | None, config: Config
) -> None:
    """Write ACPI tables, command line and struct boot_params; set the vCPU to the entry."""
    pvh.write_common(memory, config.cmdline, config.vcpus)
    memory.write(_ZERO_PAGE, zero_page(kernel, initramfs, memory.size))
    memory.write(_GDT, _DESCRIPTORS)
    flat.write_tables(memory, "long")
    flat.set_entry_state(vcpu, "long", {"rip": kernel.entry, "rsi": _ZERO_PAGE})
    data = flat.DATA._replace(selector=_BOOT_DS)
    vcpu.set_special(
        {
            **dict.fromkeys(("ds", "es", "fs", "gs", "ss"), data),
            "cs": flat.CODE64._replace(selector=_BOOT_CS),
            "gdt": (_GDT, len(_DESCRIPTORS) - 1),
        }
    )


def zero_page(kernel: Kernel, initramfs: tuple[int, int] | None, size: int) -> bytes:
    """struct boot_params. initramfs: address and size in bytes. size: of memory, in bytes."""
    page = bytearray(4096)
    header = kernel.header or _MINIMAL_HEADER
    page[_HEADER : _HEADER + len(header)] = header
    page[0x210] = _UNKNOWN_LOADER
    struct.pack_into("<II", page, 0x218, *(initramfs or (0, 0)))
    struct.pack_into("<I", page, 0x228, pvh.COMMAND_LINE)
    struct.pack_into("<Q", page, _RSDP, acpi.BASE)
    entries = pvh.memory_map(size)
    page[_E820_COUNT] = len(entries)
    for index, entry in enumerate(entries):
        struct.pack_into("<QQI", page, _E820_TABLE + 20 * index, *entry)
    return bytes(page)
