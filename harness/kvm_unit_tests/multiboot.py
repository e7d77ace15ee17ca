"""A loader for Multiboot kernels (Multiboot Specification 0.6.96)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.errors import ProvisionError
from harness.hypervisors.payload_file import parse_elf
from harness.vmm.boot.pvh import LOW_RAM_END, memory_map
from harness.vmm.memory import GAP_START

MAGIC, LOADER_MAGIC = 0x1BAD_B002, 0x2BAD_B002
_HEADER_LIMIT = 8192  # the header lies within these bytes, at a multiple of 4
_PAGE = 4096
_HAS_ADDRESSES = 1 << 16
_SUPPORTED_FLAGS = 0b11 | _HAS_ADDRESSES  # page-aligned modules, memory information; no video
# flags of the boot information: memory, command line, modules, memory map
_HAS_MEMORY, _HAS_CMDLINE, _HAS_MODULES, _HAS_MAP = 1 << 0, 1 << 2, 1 << 3, 1 << 6
_INFO = struct.Struct("<IIIIIII16xII36x")
_MODULE = struct.Struct("<IIII")
_MAP_ENTRY = struct.Struct("<IQQI")
# The boot information lies in low memory, since a kernel may use all memory after its image, and
# above the addresses of small real-mode kernels.
_INFO_ADDRESS, _INFO_END = 0x7_0000, 0x9_0000


@dataclass(frozen=True)
class LoadedKernel:
    """The contents of guest memory, and the state of the vCPU, which starts in protected mode.

    segments: (guest-physical address, offset in the file, size in bytes). information: the address
    of the boot information and its bytes.
    """

    segments: list[tuple[int, int, int]]
    information: tuple[int, bytes]
    entry: int
    registers: dict[str, int]


def load(data: bytes, cmdline: str, memory: int, module: bytes = b"") -> LoadedKernel:
    """Lay out a kernel with its boot information.

    data: the kernel file. cmdline: begins with the kernel's name. memory: MiB of the guest. module:
    the content of a boot module, empty for none. Raises ProvisionError (stage "create").
    """
    at, flags = _find_header(data)
    if flags & _HAS_ADDRESSES:
        segments, entry = _by_addresses(data, at)
    else:
        _, entry, segments = parse_elf(data)
    information = _information(cmdline, memory << 20, module)
    low = min(memory << 20, GAP_START)
    for gpa, _, size in segments:
        end = gpa + size
        if end > low:
            raise _refused(f"it does not fit into {memory} MiB of memory", "set a larger memory")
        for start, stop in (
            (_INFO_ADDRESS, _INFO_ADDRESS + len(information)),
            (LOW_RAM_END, 0x10_0000),
        ):
            if gpa < stop and start < end:
                raise _refused(
                    f"its segment at {gpa:#x} overlaps memory of the loader or the firmware",
                    f"link it outside of {start:#x} to {stop:#x}",
                )
    return LoadedKernel(
        segments, (_INFO_ADDRESS, information), entry, {"rax": LOADER_MAGIC, "rbx": _INFO_ADDRESS}
    )


def _find_header(data: bytes) -> tuple[int, int]:
    """Find the header. Returns its offset and its flags (section 3.1.1, 3.1.2)."""
    head = data[:_HEADER_LIMIT]
    for at in range(0, len(head) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<III", head, at)
        if magic == MAGIC and (magic + flags + checksum) & 0xFFFF_FFFF == 0:
            if unknown := flags & 0xFFFF & ~_SUPPORTED_FLAGS:
                raise _refused(
                    f"its Multiboot header requires unsupported features (flags {unknown:#x})"
                )
            return at, flags
    raise _refused("it has no Multiboot header in its first 8 KiB", "use a Multiboot kernel")


def _by_addresses(data: bytes, at: int) -> tuple[list[tuple[int, int, int]], int]:
    """Segments and entry point from the header's address fields (3.1.3), for flat files."""
    if len(data) < at + 32:
        raise _refused("it is truncated")
    header, load, load_end, bss_end, entry = struct.unpack_from("<5I", data, at + 12)
    start = at - (header - load)
    end = start + (load_end - load) if load_end else len(data)
    if not 0 <= start < end <= len(data) or (bss_end and bss_end < load + end - start):
        raise _refused("the addresses in its Multiboot header are inconsistent")
    return [(load, start, end - start)], entry


def _information(cmdline: str, size: int, module: bytes) -> bytes:
    """The boot information (section 3.3) and the data it refers to, for _INFO_ADDRESS."""
    areas = b"".join(_MAP_ENTRY.pack(_MAP_ENTRY.size - 4, *entry) for entry in memory_map(size))
    text = cmdline.encode() + b"\0"
    map_at = _INFO_ADDRESS + _INFO.size
    modules_at = map_at + len(areas)
    text_at = modules_at + (_MODULE.size if module else 0)
    module_at = (text_at + len(text) + _PAGE - 1) & ~(_PAGE - 1)
    flags = _HAS_MEMORY | _HAS_CMDLINE | _HAS_MAP | (_HAS_MODULES if module else 0)
    information = _INFO.pack(
        flags,
        LOW_RAM_END >> 10,
        max(0, min(size, GAP_START) - 0x10_0000) >> 10,
        0,
        text_at,
        1 if module else 0,
        modules_at if module else 0,
        len(areas),
        map_at,
    )
    information += areas
    if module:
        information += _MODULE.pack(module_at, module_at + len(module), 0, 0)
    information += text
    if module:
        information = information.ljust(module_at - _INFO_ADDRESS, b"\0") + module
    if len(information) > _INFO_END - _INFO_ADDRESS:
        raise _refused("its command line and module are too large", "shorten them")
    return information


def _refused(reason: str, hint: str = "") -> ProvisionError:
    return ProvisionError(f"the kernel cannot be loaded: {reason}", hint=hint, stage="create")
