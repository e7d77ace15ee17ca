"""Which way a kernel file is booted: by what it begins with, and by what is asked for."""

from __future__ import annotations

from typing import NamedTuple

from harness.kvm.errors import ConfigError
from harness.kvm.vcpu import Vcpu

from ..config import Config
from ..memory import Memory
from . import flat, linux, pvh

FIRMWARE_HINT = "give the kernel and the initramfs that are in it"
_HEAD = 0x400


def needs_firmware(head: bytes) -> str:
    """What a file is that only firmware could boot, by its first KiB; "" for no such thing."""
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
    return head[linux.MAGIC_AT : linux.MAGIC_AT + 4] == linux.MAGIC


class Loaded(NamedTuple):
    """What is in guest memory. initramfs: its address and size."""

    kernel: pvh.Kernel
    initramfs: tuple[int, int] | None


def read(memory: Memory, config: Config) -> Loaded:
    """Put a kernel and its initramfs into memory. Raises ConfigError."""
    kernel = load(memory, config.kernel, config.boot)
    if not config.initramfs:
        return Loaded(kernel, None)
    return Loaded(kernel, pvh.load_initramfs(memory, config.initramfs, kernel))


def enter(memory: Memory, vcpu: Vcpu, config: Config, loaded: Loaded) -> None:
    """Put the vCPU at its entry, and into memory what a kernel is told. Raises ConfigError."""
    kernel, initramfs = loaded
    if kernel.long_mode:
        linux.start(memory, vcpu, kernel, initramfs, config)
    else:
        info = pvh.write_start_info(memory, config.cmdline, initramfs, config.vcpus)
        flat.enter(vcpu, "protected", {"rip": kernel.entry, "rbx": info})


def load(memory: Memory, path: str, way: str) -> pvh.Kernel:
    """Read a kernel into guest memory. way: of BOOT_WAYS. Raises ConfigError with its hint."""
    try:
        with open(path, "rb", buffering=0) as file:
            head = file.read(_HEAD)
            if what := needs_firmware(head):
                cause = f"{path} is {what}, which boots by firmware; this VMM has none"
                raise ConfigError(cause, FIRMWARE_HINT)
            if not is_bzimage(head):
                file.seek(0)
                return pvh.load_elf(memory, file, path, way)
            if way == "pvh":
                cause = f"{path} is a bzImage, which has no PVH entry"
                raise ConfigError(cause, "unpack it (extract-vmlinux), or boot it by linux64")
            return linux.load_bzimage(memory, file, path)
    except OSError as error:
        raise ConfigError(f"kernel {path}: {error.strerror}", "check the path") from error
    except OverflowError as error:  # an offset of 2^63 or more
        raise pvh.truncated(path) from error
