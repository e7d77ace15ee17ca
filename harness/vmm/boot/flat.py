"""Loads a payload: segments of files in guest memory, and a vCPU in the mode they start in.

A payload may use all of guest memory except these areas:

    0x0500  descriptors: null, 0x08 code, 0x10 data, 0x18 task state (protected and long mode)
    0x1000  page tables: 0x1000 PML4, 0x2000 PDPT, 0x3000 to 0x6fff four page directories that
            identity-map 4 GiB by pages of 2 MiB (long mode)

The stack begins at 0x7c00 in real mode and at 0x9f000 in the others. Interrupts are disabled, and
registers are 0. Source: Intel SDM volume 3A, 9.9 (modes), 3.4.5 (descriptors), 4.5 (4-level
paging).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from harness.kvm.errors import ConfigError, GuestFault
from harness.kvm.structs import REGISTER_NAMES, Segment
from harness.kvm.vcpu import Vcpu

from ..config import Config, SegmentConfig
from ..memory import Memory
from .pvh import read_into

MODES = ("real", "protected", "long")
_REAL_STACK, _STACK = 0x7C00, 0x9_F000
_GDT, _PAGE_TABLES, _PAGE_TABLES_END = 0x500, 0x1000, 0x7000
_DESCRIPTORS = {
    # null, code (with the D bit or the L bit), data, an available 32-bit TSS
    "protected": (0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x0000_8900_0000_0067),
    "long": (0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x0000_8900_0000_0067),
}
_PRESENT_WRITABLE, _LARGE = 3, 0x80

_CODE32 = Segment(0, 0xFFFF_FFFF, 0x08, 0xB, 1, 0, 1, 1, 0, 1, 0, 0)
CODE64 = _CODE32._replace(default=0, long=1)
DATA = Segment(0, 0xFFFF_FFFF, 0x10, 0x3, 1, 0, 1, 1, 0, 1, 0, 0)
_TASK = Segment(0, 0x67, 0x18, 0xB, 1, 0, 0, 0, 0, 0, 0, 0)
_CODE16 = Segment(0, 0xFFFF, 0, 0xB, 1, 0, 0, 1, 0, 0, 0, 0)
_CR0_PE, _CR0_PG = 1, 1 << 31
_CR4_PAE, _CR4_SSE = 1 << 5, 3 << 9
_EFER_LONG = 1 << 8 | 1 << 10  # LME and LMA


def load(memory: Memory, vcpu: Vcpu, config: Config) -> None:
    """Load a payload into memory and set the vCPU to its entry. Raises ConfigError."""
    mode, registers = config.mode, config.registers
    if mode not in MODES:
        raise ConfigError(f"there is no mode {mode!r:.80}", f"choose one of {', '.join(MODES)}")
    for name, value in registers.items():
        if name not in REGISTER_NAMES or not 0 <= value < 1 << 64:
            hint = f"set 64-bit values of {', '.join(REGISTER_NAMES)}"
            raise ConfigError(f"no register {name!r:.80} can be {value!r:.80}", hint)
    entry_limit = {"real": 1 << 20, "protected": 1 << 32, "long": 1 << 47}[mode]
    if not 0 <= config.entry < entry_limit:
        raise ConfigError(
            f"entry {config.entry:#x} is out of the reach of {mode} mode",
            f"choose an entry below {entry_limit:#x}",
        )
    reserved = write_tables(memory, mode)
    for segment in config.payload:
        _load_segment(memory, segment, reserved)
    stack = _REAL_STACK if mode == "real" else _STACK
    set_entry_state(vcpu, mode, {"rip": config.entry, "rsp": stack, **registers})
    if mode != "real":
        limit = 8 * len(_DESCRIPTORS[mode]) - 1
        vcpu.set_special({"gdt": (_GDT, limit)})


def set_entry_state(vcpu: Vcpu, mode: str, registers: Mapping[str, int]) -> None:
    """Set a vCPU to a mode with flat segments, and set its general registers; others become 0.

    "protected" without a descriptor table is also a PVH kernel's initial state (Xen's
    docs/misc/pvh.pandoc, "x86/HVM direct boot ABI").
    """
    values = {"rflags": 2, **registers}
    if mode == "real":
        selector = values["rip"] >> 4 & 0xF000
        values["rip"] &= 0xFFFF
        vcpu.set_special({"cs": _CODE16._replace(base=selector << 4, selector=selector)})
    else:
        special: dict[str, tuple[int, ...]] = dict.fromkeys(("ds", "es", "fs", "gs", "ss"), DATA)
        special.update(cs=_CODE32, tr=_TASK, cr0=(_CR0_PE,))
        if mode == "long":
            special.update(
                cs=CODE64,
                cr0=(_CR0_PE | _CR0_PG,),
                cr3=(_PAGE_TABLES,),
                cr4=(_CR4_PAE | _CR4_SSE,),
                efer=(_EFER_LONG,),
            )
        vcpu.set_special(special)
    vcpu.set_registers(values)


def write_tables(memory: Memory, mode: str) -> list[range]:
    """Write the descriptors and page tables that a mode needs. Returns their address ranges."""
    if mode == "real":
        return []
    descriptors = struct.pack("<4Q", *_DESCRIPTORS[mode])
    memory.write(_GDT, descriptors)
    reserved = [range(_GDT, _GDT + len(descriptors))]
    if mode == "long":
        directories = [_PAGE_TABLES + 0x2000 + 0x1000 * gib for gib in range(4)]
        pdpt = _PAGE_TABLES + 0x1000
        memory.write(_PAGE_TABLES, struct.pack("<Q", pdpt | _PRESENT_WRITABLE))
        entries = [directory | _PRESENT_WRITABLE for directory in directories]
        memory.write(pdpt, struct.pack("<4Q", *entries))
        pages = [page << 21 | _LARGE | _PRESENT_WRITABLE for page in range(4 * 512)]
        memory.write(directories[0], struct.pack("<2048Q", *pages))
        reserved.append(range(_PAGE_TABLES, _PAGE_TABLES_END))
    return reserved


def _load_segment(memory: Memory, segment: SegmentConfig, reserved: list[range]) -> None:
    where = f"payload segment {segment.gpa:#x}+{segment.size:#x}"
    if segment.size < 0 or not 0 <= segment.offset < 1 << 63:
        raise ConfigError(
            f"{where} of {segment.path} at offset {segment.offset:#x} is out of range",
            "pass the offset and the size of bytes in the file",
        )
    for area in reserved:
        if segment.gpa < area.stop and segment.gpa + segment.size > area.start:
            owner = f"the VMM's tables at {area.start:#x} to {area.stop - 1:#x}"
            hint = f"load it at {_PAGE_TABLES_END:#x} or above"
            raise ConfigError(f"{where} overlaps {owner}", hint)
    try:
        view = memory.view(segment.gpa, segment.size)
    except GuestFault:
        cause = f"{where} does not fit into {memory.size >> 20} MiB of memory"
        raise ConfigError(cause, "request more memory") from None
    try:
        with open(segment.path, "rb", buffering=0) as file:
            truncated = ConfigError(f"payload {segment.path} is truncated", "build it again")
            read_into(view, file.fileno(), segment.offset, truncated)
    except OSError as error:
        cause = f"payload {segment.path}: {error.strerror}"
        raise ConfigError(cause, "check the path") from error
