"""Numbers and structures of virtio, vhost and PCI, compared with the kernel's headers."""

from __future__ import annotations

import struct

import pytest

from harness.vmm.devices import msix
from harness.vmm.devices.virtio import block, queue, transport, vhost, vsock
from tests.headers import numbers

SIZES = {
    "struct vhost_vring_addr": vhost.VRING_ADDRESS.size,
    "struct vhost_vring_file": vhost.VRING_FILE.size,
    "struct vhost_vring_state": vhost.VRING_STATE.size,
    "struct vhost_memory_region": vhost.MEMORY_REGION.size,
    "struct virtio_pci_common_cfg": transport._COMMON_SIZE,
    "struct vring_desc": queue._DESCRIPTOR.size,
    "struct vring_used_elem": queue._USED_ELEMENT.size,
    "struct virtio_blk_outhdr": block._HEADER.size,
}
OFFSETS = {
    "struct vhost_memory, regions": vhost.MEMORY_HEADER.size,
    "struct vhost_vring_addr, used_user_addr": 16,
    "struct virtio_pci_common_cfg, device_status": 20,
    "struct virtio_pci_common_cfg, queue_desc_lo": 32,
    "struct virtio_pci_notify_cap, notify_off_multiplier": 16,
    "struct virtio_blk_config, seg_max": 12,
    "struct virtio_blk_config, blk_size": 20,
    "struct vring_desc, next": 14,
    "struct vring_used, ring": 4,
}
CONSTANTS = {
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
# sizes from the specification (virtio 1.2), for hosts without a compiler
LITERALS = {
    vhost.VRING_STATE: 8,
    vhost.VRING_FILE: 8,
    vhost.VRING_ADDRESS: 40,
    vhost.MEMORY_HEADER: 8,
    vhost.MEMORY_REGION: 32,
    queue._DESCRIPTOR: 16,
    queue._USED_ELEMENT: 8,
    block._HEADER: 16,
}
HEADERS = (
    *("sys/socket.h", "linux/vhost.h", "linux/pci_regs.h", "linux/virtio_blk.h"),
    *("linux/virtio_config.h", "linux/virtio_ids.h", "linux/virtio_pci.h"),
    *("linux/virtio_ring.h", "linux/vm_sockets.h"),
)


@pytest.fixture(scope="module")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    return numbers(tmp_path_factory.mktemp("headers"), HEADERS, SIZES, OFFSETS, CONSTANTS)


@pytest.mark.parametrize(("name", "value"), [*SIZES.items(), *OFFSETS.items(), *CONSTANTS.items()])
def test_value_equals_kernel_header(headers: dict[str, int], name: str, value: int) -> None:
    assert headers[name] == value


@pytest.mark.parametrize(("layout", "size"), LITERALS.items())
def test_documented_sizes(layout: struct.Struct, size: int) -> None:
    assert layout.size == size


def test_documented_numbers() -> None:
    assert vhost._SET_VRING_ADDR == 0x4028_AF11
