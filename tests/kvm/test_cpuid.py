"""The CPUID topology, and the format of the entries that KVM receives."""

from __future__ import annotations

import pytest

from harness.kvm.cpuid import Topology
from harness.kvm.structs import CPUID_ENTRY, CpuidEntry

FULL = 0xFFFF_FFFF
SUPPORTED = [
    CpuidEntry(leaf, sub, 0, FULL, FULL, FULL, FULL)
    for leaf, sub in ((0, 0), (1, 0), (4, 0), (4, 3), (0xB, 0), (0xB, 1), (0x1F, 0))
] + [CpuidEntry(leaf, 0, 0, FULL, FULL, FULL, FULL) for leaf in (0x8000_0001, 0x8000_0008)]


def leaves(index: int, count: int, deadline: bool = True) -> dict[tuple[int, int], CpuidEntry]:
    applied = Topology(index, count, deadline).apply(SUPPORTED)
    entries = {(entry.function, entry.subleaf): entry for entry in applied}
    assert len(entries) == len(applied)
    return entries


@pytest.mark.parametrize("count", [1, 2, 3, 8, 254])
def test_every_leaf_packs_for_every_vcpu(count: int) -> None:
    for index in {0, count - 1}:
        for entry in leaves(index, count).values():
            assert len(CPUID_ENTRY.pack(*entry)) == 40


def test_leaves_report_apic_ids_and_core_counts() -> None:
    entries = leaves(2, 4)
    one = entries[1, 0]
    assert (one.ebx >> 24, one.ebx >> 16 & 0xFF) == (2, 4)
    assert one.ecx & 1 << 31  # hypervisor present
    assert not one.ecx & 1 << 5  # VMX
    assert not entries[0x8000_0001, 0].ecx & 1 << 2  # SVM
    smt, core = entries[0xB, 0], entries[0xB, 1]
    assert (smt.eax, smt.ebx, smt.ecx, smt.edx) == (0, 1, 0x100, 2)
    assert (core.eax, core.ebx, core.ecx, core.edx) == (2, 4, 0x201, 2)
    assert entries[0x8000_0008, 0].ecx == 3 | 2 << 12
    assert (0x1F, 0) not in entries


def test_single_vcpu_has_no_siblings() -> None:
    assert not leaves(0, 1)[1, 0].edx & 1 << 28
    assert leaves(0, 2)[1, 0].edx & 1 << 28
    assert leaves(0, 1)[0xB, 1].eax == 0


def test_only_the_level_3_cache_is_shared() -> None:
    entries = leaves(0, 4)
    level = {sub: entries[4, sub].eax >> 5 & 7 for sub in (0, 3)}
    assert set(level.values()) == {7}
    caches = [CpuidEntry(4, n, 0, 1 | n << 5 | 0xFFF << 14, 0, 0, 0) for n in (1, 2, 3)]
    shared = [Topology(0, 4, True).leaf_4(entry).eax >> 14 & 0xFFF for entry in caches]
    assert shared == [0, 0, 3]
    end = CpuidEntry(4, 4, 0, 0, 0, 0, 0)
    assert Topology(0, 4, True).leaf_4(end) == end


def test_tsc_deadline_timer_requires_kvm_support() -> None:
    without = [entry._replace(ecx=0) for entry in SUPPORTED]
    for deadline in (False, True):
        applied = Topology(0, 1, deadline).apply(without)
        assert bool(applied[1].ecx & 1 << 24) == deadline


def test_pv_eoi_can_be_disabled() -> None:
    for pv_eoi in (True, False):
        leaves = Topology(0, 1, True, pv_eoi).apply([CpuidEntry(0x4000_0001, 0, 0, 0xFF, 0, 0, 0)])
        assert bool(leaves[0].eax & 1 << 6) == pv_eoi
        assert leaves[0].eax | 1 << 6 == 0xFF
