"""Kernel modules: dependencies and load order."""

from __future__ import annotations

import io
import struct
import tarfile

import pytest

from harness.errors import ImageError
from images.modules import dependencies, load_order, read_kernel_package


def module(depends: str) -> bytes:
    """A minimal ELF64 object with a .modinfo section."""
    names = b"\0.shstrtab\0.modinfo\0"
    info = b"license=GPL\0depends=" + depends.encode() + b"\0name=x\0"
    body = names + info
    sections = bytes(64)
    for name, offset, size in ((1, 64, len(names)), (11, 64 + len(names), len(info))):
        sections += struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, offset, size, 0, 0, 1, 0)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, 3, 1)
    return head + body + sections


def test_dependencies_are_read_from_modinfo() -> None:
    assert dependencies(module("kvm,ccp-core")) == ["kvm", "ccp_core"]
    assert dependencies(module("")) == []


def test_modules_follow_their_dependencies() -> None:
    modules = {
        "virtio": module("virtio_ring"),
        "virtio_ring": module(""),
        "virtio_net": module("net_failover,virtio,virtio_ring"),
        "net_failover": module("failover"),
        "failover": module(""),
        "unrelated": module(""),
    }
    order = load_order(["virtio-net", "virtio"], modules)
    assert order == ["failover", "net_failover", "virtio_ring", "virtio", "virtio_net"]


def test_error_for_a_missing_module_names_its_dependent() -> None:
    with pytest.raises(ImageError, match=r"no module ring .for virtio"):
        load_order(["virtio"], {"virtio": module("ring")})


def test_kernel_package_has_release_image_and_modules() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in {
            "./boot/vmlinuz-6.1.0-1-cloud-amd64": b"bz",
            "./boot/config-6.1.0-1-cloud-amd64": b"config",
            "./lib/modules/6.1.0-1-cloud-amd64/kernel/arch/x86/kvm/kvm-amd.ko": b"ko",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    release, image, modules = read_kernel_package(buffer.getvalue())
    assert (release, image, modules) == ("6.1.0-1-cloud-amd64", b"bz", {"kvm_amd": b"ko"})


def test_package_without_a_kernel_raises_image_error() -> None:
    buffer = io.BytesIO()
    tarfile.open(fileobj=buffer, mode="w").close()
    with pytest.raises(ImageError, match="no boot/vmlinuz"):
        read_kernel_package(buffer.getvalue())
