"""Our numbers and layouts against the kernel's own headers, by a C compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from harness.vmm.devices.virtio import vhost, vsock
from harness.vmm.kvm import capabilities, ioctls, structs

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
}
OFFSETS = {
    "struct kvm_run, immediate_exit": structs.RUN_IMMEDIATE_EXIT,
    "struct kvm_run, exit_reason": structs.RUN_EXIT_REASON,
    "struct kvm_run, io": structs.RUN_UNION,
    "struct kvm_run, mmio": structs.RUN_UNION,
    "struct kvm_ioeventfd, fd": 20,
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
}


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
    includes = ("stdio.h", "stddef.h", "linux/kvm.h", "linux/vhost.h")
    text = "".join(f"#include <{name}>\n" for name in includes)
    source.write_text(text + "int main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
    subprocess.run(["gcc", "-o", folder / "numbers", source], check=True)
    out = subprocess.run([folder / "numbers"], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.rsplit("=", 1) for line in out.splitlines())}


@pytest.mark.parametrize(("name", "value"), [*SIZES.items(), *OFFSETS.items(), *CONSTANTS.items()])
def test_as_in_the_headers(headers: dict[str, int], name: str, value: int) -> None:
    assert headers[name] == value
