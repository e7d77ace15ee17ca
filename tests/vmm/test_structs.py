"""Our numbers and layouts against the kernel's own headers, by a C compiler."""

from __future__ import annotations

import ast
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from harness import vmm
from harness.vmm.devices import msix
from harness.vmm.devices.virtio import block, queue, transport, vhost, vsock
from harness.vmm.kvm import capabilities, coalesced, cpuid, ioctls, stats, structs

SIZES = {
    "struct kvm_userspace_memory_region": structs.MEMORY_REGION.size,
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
    "struct kvm_stats_header": structs.STATS_HEADER.size,
    "struct kvm_stats_desc": structs.STATS_DESC.size,
    "struct vhost_vring_addr": vhost._VRING_ADDRESS.size,
    "struct vhost_vring_file": vhost._VRING_FILE.size,
    "struct vhost_vring_state": vhost._VRING_STATE.size,
    "struct vhost_memory_region": vhost._MEMORY_REGION.size,
    "struct virtio_pci_common_cfg": transport._COMMON_SIZE,
    "struct vring_desc": queue._DESCRIPTOR.size,
    "struct vring_used_elem": queue._USED_ELEMENT.size,
    "struct virtio_blk_outhdr": block._HEADER.size,
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
    "struct kvm_run, system_event.type": structs.RUN_UNION,
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
    "struct vhost_memory, regions": vhost._MEMORY_HEADER.size,
    "struct vhost_vring_addr, used_user_addr": 16,
    "struct virtio_pci_common_cfg, device_status": 20,
    "struct virtio_pci_common_cfg, queue_desc_lo": 32,
    "struct virtio_pci_notify_cap, notify_off_multiplier": 16,
    "struct virtio_blk_config, seg_max": 12,
    "struct virtio_blk_config, blk_size": 20,
    "struct vring_desc, next": 14,
    "struct vring_used, ring": 4,
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
    "VHOST_GET_FEATURES": vhost._GET_FEATURES,
    "VHOST_SET_FEATURES": vhost._SET_FEATURES,
    "VHOST_SET_OWNER": vhost._SET_OWNER,
    "VHOST_SET_MEM_TABLE": vhost._SET_MEM_TABLE,
    "VHOST_SET_VRING_NUM": vhost._SET_VRING_NUM,
    "VHOST_SET_VRING_ADDR": vhost._SET_VRING_ADDR,
    "VHOST_SET_VRING_BASE": vhost._SET_VRING_BASE,
    "VHOST_SET_VRING_KICK": vhost._SET_VRING_KICK,
    "VHOST_SET_VRING_CALL": vhost._SET_VRING_CALL,
    "VHOST_VSOCK_SET_GUEST_CID": vsock._SET_GUEST_CID,
    "VHOST_VSOCK_SET_RUNNING": vsock._SET_RUNNING,
    "KVM_API_VERSION": ioctls.API_VERSION,
    "KVM_IRQFD_FLAG_DEASSIGN": structs.IRQFD_FLAG_DEASSIGN,
    "KVM_IOEVENTFD_FLAG_DATAMATCH": structs.IOEVENTFD_FLAG_DATAMATCH,
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
    "VIRTIO_BLK_T_IN": block._IN,
    "VIRTIO_BLK_T_OUT": block._OUT,
    "VIRTIO_BLK_T_FLUSH": block._FLUSH,
    "VIRTIO_BLK_T_GET_ID": block._GET_ID,
    "VIRTIO_BLK_S_IOERR": block._IO_ERROR,
    "VIRTIO_BLK_S_UNSUPP": block._UNSUPPORTED,
    "VIRTIO_BLK_ID_BYTES": block._ID_BYTES,
    "1 << VIRTIO_BLK_F_SEG_MAX": block._F_SEG_MAX,
    "1 << VIRTIO_BLK_F_RO": block._F_READ_ONLY,
    "1 << VIRTIO_BLK_F_BLK_SIZE": block._F_BLOCK_SIZE,
    "1 << VIRTIO_BLK_F_FLUSH": block._F_FLUSH,
    "1 << VIRTIO_RING_F_INDIRECT_DESC": transport.F_INDIRECT,
    "1 << VIRTIO_RING_F_EVENT_IDX": transport.F_EVENT_INDEX,
    "1ull << VIRTIO_F_VERSION_1": transport.F_VERSION_1,
    "VRING_DESC_F_NEXT": queue._NEXT,
    "VRING_DESC_F_WRITE": queue._WRITE,
    "VRING_DESC_F_INDIRECT": queue._INDIRECT,
    "VRING_AVAIL_F_NO_INTERRUPT": queue._NO_INTERRUPT,
    "VIRTIO_CONFIG_S_DRIVER_OK": transport._DRIVER_OK,
    "VIRTIO_CONFIG_S_FEATURES_OK": transport._FEATURES_OK,
    "VIRTIO_MSI_NO_VECTOR": transport._NO_VECTOR,
    "VIRTIO_ID_BLOCK": block.Block.device_type,
    "VIRTIO_ID_VSOCK": vsock.Vsock.device_type,
    "PCI_CAP_ID_VNDR": transport._VENDOR_CAPABILITY,
    "PCI_CAP_ID_MSIX": msix.CAPABILITY,
    "PCI_MSIX_FLAGS_ENABLE": msix._ENABLE,
    "PCI_MSIX_FLAGS_MASKALL": msix._FUNCTION_MASK,
    "VMADDR_CID_HOST + 1": vsock._FIRST_CID,
    "VMADDR_CID_ANY - 1": vsock._LAST_CID,
}
# The same without a compiler, from the documentation (api.rst, virtio 1.2).
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
    vhost._VRING_STATE: 8,
    vhost._VRING_FILE: 8,
    vhost._VRING_ADDRESS: 40,
    vhost._MEMORY_HEADER: 8,
    vhost._MEMORY_REGION: 32,
    queue._DESCRIPTOR: 16,
    queue._USED_ELEMENT: 8,
    block._HEADER: 16,
}


HEADERS = (
    *("stdio.h", "stddef.h", "sys/socket.h", "linux/kvm.h", "linux/vhost.h", "linux/pci_regs.h"),
    *("linux/virtio_blk.h", "linux/virtio_config.h", "linux/virtio_ids.h", "linux/virtio_pci.h"),
    *("linux/virtio_ring.h", "linux/vm_sockets.h"),
)


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What the C compiler makes of each expression."""
    if not shutil.which("gcc") or not Path("/usr/include/linux/kvm.h").exists():
        pytest.skip("no gcc or no kernel headers (linux-libc-dev)")
    expressions = {name: f"sizeof({name})" for name in SIZES}
    expressions |= {name: f"offsetof({name})" for name in OFFSETS}
    expressions |= {name: name for name in CONSTANTS}
    lines = [
        f'printf("%s=%llu\\n", "{n}", (unsigned long long)({e}));' for n, e in expressions.items()
    ]
    folder = tmp_path_factory.mktemp("headers")
    source = folder / "numbers.c"
    text = "".join(f"#include <{name}>\n" for name in HEADERS)
    source.write_text(text + "int main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
    subprocess.run(["gcc", "-o", folder / "numbers", source], check=True)
    out = subprocess.run([folder / "numbers"], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.rsplit("=", 1) for line in out.splitlines())}


@pytest.mark.parametrize(("name", "value"), [*SIZES.items(), *OFFSETS.items(), *CONSTANTS.items()])
def test_as_in_the_headers(headers: dict[str, int], name: str, value: int) -> None:
    assert headers[name] == value


@pytest.mark.parametrize(("layout", "size"), LITERALS.items())
def test_sizes_without_a_compiler(layout: struct.Struct, size: int) -> None:
    assert layout.size == size


def test_numbers_without_a_compiler() -> None:
    assert structs.SREGS_SIZE == 312
    assert ioctls.RUN == 0xAE80
    assert ioctls.SET_USER_MEMORY_REGION == 0x4020_AE46
    assert ioctls.GET_SUPPORTED_CPUID == 0xC008_AE05
    assert ioctls.SET_CPUID2 == 0x4008_AE90
    assert ioctls.GET_REGS == 0x8090_AE81
    assert ioctls.IRQFD == 0x4020_AE76
    assert ioctls.IOEVENTFD == 0x4040_AE79
    assert vhost._SET_VRING_ADDR == 0x4028_AF11


def test_every_source_of_the_vmm_is_python_3_9() -> None:
    for path in Path(vmm.__file__).parent.rglob("*.py"):
        ast.parse(path.read_text(), str(path), feature_version=(3, 9))
