"""A guest's CPUID: KVM's supported leaves, changed to describe `count` cores of one socket.

Leaves: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; KVM's own at 0x40000000
(Documentation/virt/kvm/x86/cpuid.rst).
"""

from __future__ import annotations

import struct
from fcntl import ioctl
from typing import Callable

from . import ioctls
from .structs import CPUID_ENTRY, CpuidEntry

_HYPERVISOR = 1 << 31
_TSC_DEADLINE = 1 << 24
_HTT = 1 << 28
_SVM = 1 << 2
_VMX = 1 << 5
_LEVEL_SMT, _LEVEL_CORE = 1 << 8, 2 << 8
_PV_EOI = 1 << 6  # KVM_FEATURE_PV_EOI
_SIGNIFICANT_INDEX = 1  # KVM_CPUID_FLAG_SIGNIFCANT_INDEX


class Topology:
    """One vCPU's CPUID among `count` cores. Its APIC id is its index.

    pv_eoi: the guest may end an interrupt without an exit.
    """

    def __init__(self, index: int, count: int, tsc_deadline: bool, pv_eoi: bool = True) -> None:
        self.index = index
        self.count = count
        self.bits = max(count - 1, 0).bit_length()
        self.tsc_deadline = tsc_deadline
        self.pv_eoi = pv_eoi

    def leaf_1(self, entry: CpuidEntry) -> CpuidEntry:
        ecx = (entry.ecx | _HYPERVISOR) & ~_VMX
        if self.tsc_deadline:
            ecx |= _TSC_DEADLINE
        return entry._replace(
            ebx=(entry.ebx & 0xFFFF) | (self.count << 16) | (self.index << 24),
            ecx=ecx,
            edx=entry.edx | _HTT if self.count > 1 else entry.edx & ~_HTT,
        )

    def leaf_4(self, entry: CpuidEntry) -> CpuidEntry:
        """Intel's cache leaf: EAX[31:26] cores in the package less one, [25:14] sharers."""
        if not entry.eax & 0x1F:
            return entry
        level = (entry.eax >> 5) & 7
        sharers = (1 << self.bits) - 1 if level == 3 else 0
        eax = (entry.eax & 0x3FFF) | (sharers << 14) | (((1 << self.bits) - 1) << 26)
        return entry._replace(eax=eax & 0xFFFF_FFFF)

    def leaf_4000_0001(self, entry: CpuidEntry) -> CpuidEntry:
        return entry if self.pv_eoi else entry._replace(eax=entry.eax & ~_PV_EOI)

    def leaf_8000_0001(self, entry: CpuidEntry) -> CpuidEntry:
        return entry._replace(ecx=entry.ecx & ~_SVM)

    def leaf_8000_0008(self, entry: CpuidEntry) -> CpuidEntry:
        """AMD: ECX[7:0] cores less one, ECX[15:12] bits of the APIC id."""
        return entry._replace(ecx=(self.count - 1) | (self.bits << 12))

    def leaf_8000_001e(self, entry: CpuidEntry) -> CpuidEntry:
        return entry._replace(eax=self.index, ebx=self.index, ecx=0)

    def leaf_b(self) -> list[CpuidEntry]:
        """Extended topology: one thread per core, then all cores."""
        smt = CpuidEntry(0xB, 0, _SIGNIFICANT_INDEX, 0, 1, _LEVEL_SMT, self.index)
        core = CpuidEntry(
            0xB, 1, _SIGNIFICANT_INDEX, self.bits, self.count, _LEVEL_CORE | 1, self.index
        )
        return [smt, core]

    def apply(self, supported: list[CpuidEntry]) -> list[CpuidEntry]:
        """Change KVM's supported leaves for this vCPU. Nested virtualization is hidden."""
        change: dict[int, Callable[[CpuidEntry], CpuidEntry]] = {
            0x1: self.leaf_1,
            0x4: self.leaf_4,
            0x4000_0001: self.leaf_4000_0001,
            0x8000_0001: self.leaf_8000_0001,
            0x8000_0008: self.leaf_8000_0008,
            0x8000_001E: self.leaf_8000_001e,
        }
        # 0x1F extends 0xB with more levels; without 0x1F a guest reads 0xB
        changed = [
            change[entry.function](entry) if entry.function in change else entry
            for entry in supported
            if entry.function not in (0xB, 0x1F)
        ]
        return changed + self.leaf_b()


def set_cpuid(vcpu_fd: int, entries: list[CpuidEntry]) -> None:
    """Set a vCPU's CPUID (KVM_SET_CPUID2)."""
    table = struct.pack("<II", len(entries), 0)
    table += b"".join(CPUID_ENTRY.pack(*entry) for entry in entries)
    ioctl(vcpu_fd, ioctls.SET_CPUID2, bytearray(table.ljust(1025, b"\0")))
