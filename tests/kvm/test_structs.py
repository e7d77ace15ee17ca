"""KVM's numbers and structures, compared with the kernel's headers by a C compiler."""

from __future__ import annotations

import struct

import pytest

from harness.kvm import capabilities, coalesced, cpuid, ioctls, state, stats, structs
from tests.headers import numbers

SIZES = {
    "struct kvm_userspace_memory_region": structs.MEMORY_REGION.size,
    "struct kvm_dirty_log": structs.DIRTY_LOG.size,
    "struct kvm_irq_level": structs.IRQ_LEVEL.size,
    "struct kvm_coalesced_mmio_zone": structs.COALESCED_ZONE.size,
    "struct kvm_coalesced_mmio": structs.COALESCED_ENTRY.size,
    "struct kvm_irqfd": structs.IRQFD.size,
    "struct kvm_pit_config": structs.PIT_CONFIG.size,
    "struct kvm_ioeventfd": structs.IOEVENTFD.size,
    "struct kvm_cpuid_entry2": structs.CPUID_ENTRY.size,
    "struct kvm_irq_routing": structs.ROUTING_HEADER.size,
    "struct kvm_irq_routing_entry": structs.ROUTING_MSI.size,
    "struct kvm_irq_routing_entry ": structs.ROUTING_IRQCHIP.size,
    "struct kvm_regs": structs.REGS.size,
    "struct kvm_segment": structs.SEGMENT.size,
    "struct kvm_dtable": structs.DTABLE.size,
    "struct kvm_sregs": structs.SREGS_SIZE,
    "struct kvm_guest_debug": structs.GUEST_DEBUG.size,
    "struct kvm_vcpu_events": structs.VCPU_EVENTS_SIZE,
    "struct kvm_x86_mce": structs.MCE.size,
    "struct kvm_msr_entry": structs.MSR_ENTRY.size,
    "struct kvm_xcrs": structs.XCRS_SIZE,
    "struct kvm_debugregs": structs.DEBUGREGS_SIZE,
    "struct kvm_lapic_state": structs.LAPIC_SIZE,
    "struct kvm_irqchip": structs.IRQCHIP_SIZE,
    "struct kvm_pit_state2": structs.PIT_STATE_SIZE,
    "struct kvm_clock_data": structs.CLOCK_SIZE,
    "struct kvm_xsave": state._XSAVE_SIZE,
    "struct kvm_stats_header": structs.STATS_HEADER.size,
    "struct kvm_stats_desc": structs.STATS_DESC.size,
}
OFFSETS = {
    "struct kvm_run, immediate_exit": structs.RUN_IMMEDIATE_EXIT,
    "struct kvm_run, exit_reason": structs.RUN_EXIT_REASON,
    "struct kvm_run, io": structs.RUN_UNION,
    "struct kvm_run, mmio": structs.RUN_UNION,
    "struct kvm_run, io.data_offset": structs.RUN_UNION + structs.RUN_IO.size - 8,
    "struct kvm_run, mmio.is_write": structs.RUN_UNION + structs.RUN_MMIO.size - 1,
    "struct kvm_run, hw.hardware_exit_reason": structs.RUN_UNION,
    "struct kvm_run, internal.suberror": structs.RUN_UNION,
    "struct kvm_ioeventfd, fd": 20,
    "struct kvm_irqfd, resamplefd": 12,
    "struct kvm_coalesced_mmio, data": 16,
    "struct kvm_coalesced_mmio_ring, coalesced_mmio": coalesced._HEADER.size,
    "struct kvm_irq_routing, entries": structs.ROUTING_HEADER.size,
    "struct kvm_irq_routing_entry, u": 16,
    "struct kvm_irq_routing_msi, data": 8,
    "struct kvm_irq_routing_irqchip, pin": 4,
    "struct kvm_cpuid2, entries": 8,
    "struct kvm_cpuid_entry2, edx": 24,
    "struct kvm_regs, rip": 8 * structs.REGISTER_NAMES.index("rip"),
    "struct kvm_regs, r8": 8 * structs.REGISTER_NAMES.index("r8"),
    "struct kvm_sregs, ss": structs.SEGMENT_NAMES.index("ss") * structs.SEGMENT.size,
    "struct kvm_sregs, ldt": structs.SEGMENT_NAMES.index("ldt") * structs.SEGMENT.size,
    "struct kvm_stats_desc, name": structs.STATS_DESC.size,
    "struct kvm_stats_desc, offset": 8,
    "struct kvm_stats_header, data_offset": 20,
    "struct kvm_sregs, cr0": 8 * structs.SEGMENT.size + 2 * structs.DTABLE.size,
}
_NUMBERS = [name for name in vars(ioctls) if name.isupper() and not name.startswith("_")]
CONSTANTS = {
    f"KVM_{name}": getattr(ioctls, name)
    for name in _NUMBERS
    if name not in ("KVMIO", "API_VERSION", "EXIT_NAMES")
}
CONSTANTS |= {f"KVM_CAP_{name}": number for name, number in capabilities.NUMBERS.items()}
CONSTANTS |= {
    "KVM_GUESTDBG_ENABLE": structs.DEBUG_ENABLE,
    "KVM_GUESTDBG_SINGLESTEP": structs.DEBUG_SINGLE_STEP,
    "KVM_MEM_LOG_DIRTY_PAGES": structs.MEM_LOG_DIRTY_PAGES,
    "KVM_MEM_READONLY": structs.MEM_READONLY,
    "KVM_API_VERSION": ioctls.API_VERSION,
    "KVM_IRQFD_FLAG_DEASSIGN": structs.IRQFD_FLAG_DEASSIGN,
    "KVM_IOEVENTFD_FLAG_PIO": structs.IOEVENTFD_FLAG_PIO,
    "KVM_IOEVENTFD_FLAG_DEASSIGN": structs.IOEVENTFD_FLAG_DEASSIGN,
    "KVM_IRQ_ROUTING_IRQCHIP": structs.IRQ_ROUTING_IRQCHIP,
    "KVM_IRQ_ROUTING_MSI": structs.IRQ_ROUTING_MSI,
    "KVM_IRQCHIP_PIC_MASTER": structs.IRQCHIP_PIC_MASTER,
    "KVM_IRQCHIP_PIC_SLAVE": structs.IRQCHIP_PIC_SLAVE,
    "KVM_IRQCHIP_IOAPIC": structs.IRQCHIP_IOAPIC,
    "KVM_CPUID_FLAG_SIGNIFCANT_INDEX": cpuid._SIGNIFICANT_INDEX,
    "KVM_STATS_TYPE_MASK": stats._TYPE_MASK,
    "KVM_STATS_TYPE_LINEAR_HIST": stats._HISTOGRAM,
    "KVM_EXIT_IO_OUT": 1,
}
# sizes from the documentation (api.rst), for hosts without a compiler
LITERALS = {
    structs.MEMORY_REGION: 32,
    structs.IRQ_LEVEL: 8,
    structs.COALESCED_ZONE: 16,
    structs.COALESCED_ENTRY: 24,
    structs.IRQFD: 32,
    structs.PIT_CONFIG: 64,
    structs.IOEVENTFD: 64,
    structs.CPUID_ENTRY: 40,
    structs.ROUTING_HEADER: 8,
    structs.ROUTING_IRQCHIP: 48,
    structs.ROUTING_MSI: 48,
    structs.REGS: 144,
    structs.SEGMENT: 24,
    structs.DTABLE: 16,
    structs.STATS_HEADER: 24,
    structs.STATS_DESC: 16,
}


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    folder = tmp_path_factory.mktemp("headers")
    return numbers(folder, ["linux/kvm.h"], SIZES, OFFSETS, CONSTANTS)


@pytest.mark.parametrize(("name", "value"), [*SIZES.items(), *OFFSETS.items(), *CONSTANTS.items()])
def test_value_equals_kernel_header(headers: dict[str, int], name: str, value: int) -> None:
    assert headers[name] == value


@pytest.mark.parametrize(("layout", "size"), LITERALS.items())
def test_documented_sizes(layout: struct.Struct, size: int) -> None:
    assert layout.size == size


def test_documented_ioctl_numbers() -> None:
    assert structs.SREGS_SIZE == 312
    assert ioctls.RUN == 0xAE80
    assert ioctls.SET_USER_MEMORY_REGION == 0x4020_AE46
    assert ioctls.GET_SUPPORTED_CPUID == 0xC008_AE05
    assert ioctls.SET_CPUID2 == 0x4008_AE90
    assert ioctls.GET_REGS == 0x8090_AE81
    assert ioctls.IRQFD == 0x4020_AE76
    assert ioctls.IOEVENTFD == 0x4040_AE79
