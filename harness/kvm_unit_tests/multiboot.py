"""A loader for Multiboot kernels (Multiboot Specification 0.6.96), in place of a boot loader."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.errors import ProvisionError
from harness.hypervisors.payload_file import parse_elf
from harness.vmm.boot.pvh import LOW_RAM_END, memory_map
from harness.vmm.memory import GAP_START

MAGIC, LOADER_MAGIC = 0x1BAD_B002, 0x2BAD_B002
_SEARCHED = 8192  # bytes that the header lies in, on a multiple of 4
_PAGE = 4096
_ADDRESSES = 1 << 16
_UNDERSTOOD = 0b11 | _ADDRESSES  # pages for modules, memory information; no video mode
# the flags of the information: memory, command line, modules, memory map
_HAS_MEMORY, _HAS_CMDLINE, _HAS_MODULES, _HAS_MAP = 1 << 0, 1 << 2, 1 << 3, 1 << 6
_INFO = struct.Struct("<IIIIIII16xII36x")
_MODULE = struct.Struct("<IIII")
_MAP_ENTRY = struct.Struct("<IQQI")
# In low memory, as a kernel may take all that follows it. Above what small real-mode kernels use.
_PLACE, _PLACE_END = 0x7_0000, 0x9_0000


@dataclass(frozen=True)
class Loaded:
    """What belongs into guest memory, and how a vCPU starts it: in protected mode at `entry`.

    segments: (guest-physical address, offset in the file, size in bytes). told: the boot
    information and its address.
    """

    segments: list[tuple[int, int, int]]
    told: tuple[int, bytes]
    entry: int
    registers: dict[str, int]


def load(data: bytes, cmdline: str, memory: int, module: bytes = b"") -> Loaded:
    """Lay out a kernel with what it is told.

    data: its file. cmdline: all of it, the kernel's own name first. memory: MiB of the guest.
    module: one more file for it, if not empty. Raises ProvisionError (stage "create").
    """
    at, flags = _find_header(data)
    if flags & _ADDRESSES:
        segments, entry = _by_addresses(data, at)
    else:
        _, entry, segments = parse_elf(data)
    told = _information(cmdline, memory << 20, module)
    low = min(memory << 20, GAP_START)
    for gpa, _, size in segments:
        end = gpa + size
        if end > low:
            raise _refused(f"it does not fit into {memory} MiB of memory", "give it more memory")
        for start, stop in ((_PLACE, _PLACE + len(told)), (LOW_RAM_END, 0x10_0000)):
            if gpa < stop and start < end:
                raise _refused(
                    f"its segment at {gpa:#x} lies where the loader or the firmware writes",
                    f"link it clear of {start:#x} to {stop:#x}",
                )
    return Loaded(segments, (_PLACE, told), entry, {"rax": LOADER_MAGIC, "rbx": _PLACE})


def _find_header(data: bytes) -> tuple[int, int]:
    """The header's offset and its flags (3.1.1, 3.1.2)."""
    head = data[:_SEARCHED]
    for at in range(0, len(head) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<III", head, at)
        if magic == MAGIC and (magic + flags + checksum) & 0xFFFF_FFFF == 0:
            if unknown := flags & 0xFFFF & ~_UNDERSTOOD:
                raise _refused(f"its Multiboot header wants what is not there (flags {unknown:#x})")
            return at, flags
    raise _refused("it has no Multiboot header in its first 8 KiB", "give a Multiboot kernel")


def _by_addresses(data: bytes, at: int) -> tuple[list[tuple[int, int, int]], int]:
    """What the header's own addresses say (3.1.3), for files that are no ELF."""
    if len(data) < at + 32:
        raise _refused("it is truncated")
    header, load, load_end, bss_end, entry = struct.unpack_from("<5I", data, at + 12)
    start = at - (header - load)
    end = start + (load_end - load) if load_end else len(data)
    if not 0 <= start < end <= len(data) or (bss_end and bss_end < load + end - start):
        raise _refused("the addresses in its Multiboot header cannot be")
    return [(load, start, end - start)], entry


def _information(cmdline: str, size: int, module: bytes) -> bytes:
    """The boot information (3.3) with all that it points to, to lie at _PLACE."""
    areas = b"".join(_MAP_ENTRY.pack(_MAP_ENTRY.size - 4, *entry) for entry in memory_map(size))
    text = cmdline.encode() + b"\0"
    map_at = _PLACE + _INFO.size
    modules_at = map_at + len(areas)
    text_at = modules_at + (_MODULE.size if module else 0)
    module_at = (text_at + len(text) + _PAGE - 1) & ~(_PAGE - 1)
    flags = _HAS_MEMORY | _HAS_CMDLINE | _HAS_MAP | (_HAS_MODULES if module else 0)
    told = _INFO.pack(
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
    told += areas
    if module:
        told += _MODULE.pack(module_at, module_at + len(module), 0, 0)
    told += text
    if module:
        told = told.ljust(module_at - _PLACE, b"\0") + module
    if len(told) > _PLACE_END - _PLACE:
        raise _refused("its command line and module are too large", "shorten them")
    return told


def _refused(why: str, hint: str = "") -> ProvisionError:
    return ProvisionError(f"the kernel cannot be loaded: {why}", hint=hint, stage="create")
