"""Structures of linux/kvm.h and asm/kvm.h as struct formats; tests assert every size.

Each format is little-endian and states its padding, so it is exactly what the kernel reads.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MEMORY_REGION = struct.Struct("<IIQQQ")  # slot, flags, guest_phys_addr, memory_size, userspace_addr
MEM_LOG_DIRTY_PAGES, MEM_READONLY = 1, 2
DIRTY_LOG = struct.Struct("<IIQ")  # slot, padding, dirty_bitmap
IRQ_LEVEL = struct.Struct("<II")  # irq, level
COALESCED_ZONE = struct.Struct("<QII")  # addr, size, pio
COALESCED_ENTRY = struct.Struct("<QII8s")  # phys_addr, len, pio, data
IRQFD = struct.Struct("<IIII16x")  # fd, gsi, flags, resamplefd
PIT_CONFIG = struct.Struct("<I60x")  # flags
IOEVENTFD = struct.Struct("<QQIiI36x")  # datamatch, addr, len, fd, flags
CPUID_ENTRY = struct.Struct("<IIIIIII12x")  # function, index, flags, eax, ebx, ecx, edx
ROUTING_HEADER = struct.Struct("<II")  # nr, flags
ROUTING_IRQCHIP = struct.Struct("<IIIIII24x")  # gsi, type, flags, pad, irqchip, pin
ROUTING_MSI = struct.Struct("<IIIIIIII16x")  # gsi, type, flags, pad, addr_lo, addr_hi, data, devid
REGS = struct.Struct("<18Q")
SEGMENT = struct.Struct("<QIHBBBBBBBBBx")
DTABLE = struct.Struct("<QH6x")  # base, limit
CONTROL = struct.Struct("<Q")
SREGS_SIZE = 8 * SEGMENT.size + 2 * DTABLE.size + 7 * CONTROL.size + 32
GUEST_DEBUG = struct.Struct("<I68x")  # control
EVENT_EXCEPTION = struct.Struct("<BBBBI")  # injected, nr, has_error_code, pending, error_code
VCPU_EVENTS_SIZE = 64
MCE = struct.Struct("<QQQQB31x")  # status, addr, misc, mcg_status, bank
# VAL, UC, EN and PCC, in progress: software cannot continue (SDM volume 3B, 16.3)
MCE_UNCORRECTED = MCE.pack(1 << 63 | 1 << 61 | 1 << 60 | 1 << 57, 0, 0, 1 << 2, 0)
MSR_ENTRY = struct.Struct("<I4xQ")  # index, data
XCRS_SIZE = 392
DEBUGREGS_SIZE = 128
LAPIC_SIZE = 1024
IRQCHIP_SIZE = 520
PIT_STATE_SIZE = 112
CLOCK_SIZE = 48
STATS_HEADER = struct.Struct("<IIIIII")  # flags, name_size, num_desc, id_off, desc_off, data_off
STATS_DESC = struct.Struct("<IhHII")  # flags, exponent, size, offset, bucket_size; then the name

DEBUG_ENABLE, DEBUG_SINGLE_STEP = 1, 2
IRQFD_FLAG_DEASSIGN = 1
IOEVENTFD_FLAG_PIO = 2
IOEVENTFD_FLAG_DEASSIGN = 4
IRQ_ROUTING_IRQCHIP = 1
IRQ_ROUTING_MSI = 2
IRQCHIP_PIC_MASTER, IRQCHIP_PIC_SLAVE, IRQCHIP_IOAPIC = 0, 1, 2

# offsets in struct kvm_run
RUN_IMMEDIATE_EXIT = 1
RUN_EXIT_REASON = 8
RUN_UNION = 32
RUN_IO = struct.Struct("<BBHIQ")  # direction (1 out), size, port, count, data_offset
RUN_MMIO = struct.Struct("<Q8sIB")  # phys_addr, data, len, is_write
RUN_HW_REASON = struct.Struct("<Q")
RUN_INTERNAL = struct.Struct("<II")  # suberror, ndata

REGISTER_NAMES = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
)
# struct kvm_sregs in this order, followed by a bitmap of pending interrupts
SEGMENT_NAMES = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
TABLE_NAMES = ("gdt", "idt")
CONTROL_NAMES = ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")


class Segment(NamedTuple):
    """struct kvm_segment; `granular` is the descriptor's G bit, `long` its L, `default` its D/B."""

    base: int
    limit: int
    selector: int
    type: int
    present: int
    dpl: int
    default: int
    system: int  # the S bit: 1 for code and data
    long: int
    granular: int
    available: int
    unusable: int


class CpuidEntry(NamedTuple):
    """struct kvm_cpuid_entry2."""

    function: int
    subleaf: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int
