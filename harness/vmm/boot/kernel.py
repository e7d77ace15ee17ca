"""Selects how a kernel file is booted: by its format and by the configuration."""

from __future__ import annotations

from typing import NamedTuple

from harness.kvm.errors import ConfigError
from harness.kvm.vcpu import Vcpu

from ..config import Config
from ..memory import Memory
from . import flat, linux, pvh

FIRMWARE_HINT = "extract its kernel and initramfs, and pass those"
_HEAD = 0x400


def needs_firmware(head: bytes) -> str:
    """Names the format of a file that only firmware can boot; "" for a kernel. head: the first KiB
    of the file."""
    if head.startswith(b"\x7fELF") or is_bzimage(head):
        return ""
    if head.startswith(b"QFI\xfb"):
        return "a qcow2 disk image"
    if head[512:520] == b"EFI PART":
        return "a disk with a GUID partition table"
    if head[510:512] == b"\x55\xaa":
        return "a disk with a DOS/MBR boot sector"
    return "an EFI program" if head.startswith(b"MZ") else ""


def is_bzimage(head: bytes) -> bool:
    """Whether a file is a bzImage, by its first KiB."""
    return head[linux.MAGIC_AT : linux.MAGIC_AT + 4] == linux.MAGIC


class BootImages(NamedTuple):
    """A kernel and an initramfs in guest memory. initramfs: address and size in bytes."""

    kernel: pvh.Kernel
    initramfs: tuple[int, int] | None


def load(memory: Memory, config: Config) -> BootImages:
    """Load a kernel and its initramfs into guest memory. Raises ConfigError."""
    kernel = load_kernel(memory, config.kernel, config.boot)
    if not config.initramfs:
        return BootImages(kernel, None)
    return BootImages(kernel, pvh.load_initramfs(memory, config.initramfs, kernel))


def set_entry_state(memory: Memory, vcpu: Vcpu, config: Config, images: BootImages) -> None:
    """Set the vCPU to the kernel's entry, and write the boot parameters. Raises ConfigError."""
    kernel, initramfs = images
    if kernel.long_mode:
        linux.set_entry_state(memory, vcpu, kernel, initramfs, config)
    else:
        info = pvh.write_start_info(memory, config.cmdline, initramfs, config.vcpus)
        flat.set_entry_state(vcpu, "protected", {"rip": kernel.entry, "rbx": info})


def load_kernel(memory: Memory, path: str, boot: str) -> pvh.Kernel:
    """Load a kernel into guest memory. boot: one of BOOT_PROTOCOLS. Raises ConfigError."""
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(_HEAD)
            if kind := needs_firmware(head):
                cause = f"{path} is {kind}, which boots by firmware; this VMM has no firmware"
                raise ConfigError(cause, FIRMWARE_HINT)
            if not is_bzimage(head):
                file.seek(0)
                return pvh.load_elf(memory, file, path, boot)
            if boot == "pvh":
                cause = f"{path} is a bzImage, which has no PVH entry"
                raise ConfigError(cause, "unpack it (extract-vmlinux), or boot it by linux64")
            return linux.load_bzimage(memory, file, path)
    except OSError as error:
        raise ConfigError(f"kernel {path}: {error.strerror}", "check the path") from error
    except OverflowError as error:  # an offset of 2^63 or more
        raise pvh.truncated(path) from error
