"""Linux's 64-bit boot protocol with a bzImage and a vmlinux: entry state, refusals."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ProvisionError
from harness.guest.payload import assemble
from harness.kvm.errors import ConfigError
from harness.vmm.boot import acpi, kernel
from harness.vmm.config import BOOT_PROTOCOLS
from harness.vmm.memory import Memory
from tests.vmm.guests import Runner, in_process
from tests.vmm.payload import BASE, FOR_EVER, HELLO, POWER_OFF, bzimage, elf

# checks boot.rst's entry state; a wrong state ends in a triple fault
ENTERED = """
    mov %cs, %ax ; cmp $0x10, %ax ; jne 8f
    mov %ds, %ax ; cmp $0x18, %ax ; jne 8f
    mov %ss, %ax ; cmp $0x18, %ax ; jne 8f
    pushfq ; pop %rax ; test $0x200, %eax ; jnz 8f
    cmpl $0x53726448, 0x202(%rsi) ; jne 8f
    cmpw $0xaa55, 0x1fe(%rsi) ; jne 8f
    cmpb $0xff, 0x210(%rsi) ; jne 8f
    mov 0x70(%rsi), %rax ; mov $0x2052545020445352, %rbx ; cmp %rbx, (%rax) ; jne 8f
    mov 0x228(%rsi), %eax ; cmpl $0x6f6c6c65, 1(%rax) ; jne 8f
    mov 0x218(%rsi), %eax ; cmpl $0x21212121, (%rax) ; jne 8f
    cmpl $4, 0x21c(%rsi) ; jne 8f
    lea 1f(%rip), %rax ; push $0x10 ; push %rax ; lretq
1:  mov $0x18, %eax ; mov %eax, %ds ; mov %eax, %ss
    jmp 2f
8:  ud2
2:
"""
STACK = "mov $0x90000, %rsp\n"


def image(kind: str, source: str, folder: Path) -> str:
    path = folder / kind
    if kind == "bzimage":
        path.write_bytes(bzimage(assemble(source, "long", BASE + 0x200)))
    else:
        path.write_bytes(elf(assemble(source, "long"), note=False))
    return str(path)


@pytest.mark.parametrize("boot", ["auto", "linux64"])
@pytest.mark.parametrize("kind", ["bzimage", "vmlinux"])
def test_entry_state_follows_the_boot_protocol(
    run: Runner, tmp_path: Path, kind: str, boot: str
) -> None:
    (tmp_path / "initramfs").write_bytes(b"!!!!")
    guest = run.start(
        "create",
        "guest",
        kernel=image(kind, STACK + ENTERED + HELLO + POWER_OFF + FOR_EVER, tmp_path),
        initramfs=str(tmp_path / "initramfs"),
        cmdline="hello",
        boot=boot,
        memory=64,
        vsock=False,
    )
    assert guest.end().reason == "power-off"
    assert guest.lines == ["hi"]


def test_boot_params_have_memory_map_and_header(tmp_path: Path) -> None:
    path = tmp_path / "bzimage"
    path.write_bytes(bzimage(b"\xf4", init_size=0x20_0000))
    with in_process(FOR_EVER, tmp_path) as machine:
        config = machine.config
        config.kernel, config.cmdline = str(path), "quiet"
        loaded = kernel.load(machine.memory, config)
        kernel.set_entry_state(machine.memory, machine.vcpus[0], config, loaded)
        state = machine.vcpus[0].registers()
        assert state["rip"] == BASE + 0x200
        page = bytes(machine.memory.view(state["rsi"], 4096))
        size = machine.memory.size
    assert page[0x1EF] == 0, "the sentinel: 1 means that the loader did not clear the page"
    assert struct.unpack_from("<I", page, 0x260) == (0x20_0000,)
    assert struct.unpack_from("<Q", page, 0x70) == (acpi.BASE,)
    entries = list(struct.iter_unpack("<QQI", page[0x2D0 : 0x2D0 + 20 * page[0x1E8]]))
    assert (0, 0x9_FC00, 1) in entries
    assert (0x10_0000, size - 0x10_0000, 1) in entries
    assert not any(page[0x2D0 + 20 * page[0x1E8] :])


def test_boot_option_selects_the_entry(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(elf(b"\xf4"))
    modes = {
        way: kernel.load_kernel(Memory(64 << 20), str(path), way).long_mode
        for way in BOOT_PROTOCOLS
    }
    assert modes == {"auto": False, "pvh": False, "linux64": True}


def test_initramfs_ends_below_the_kernels_limit(tmp_path: Path) -> None:
    path = tmp_path / "bzimage"
    path.write_bytes(bzimage(b"\xf4", initrd_addr_max=0x2FF_FFFF))
    loaded = kernel.load_kernel(Memory(256 << 20), str(path), "auto")
    assert loaded.initramfs_end == 0x300_0000


@pytest.mark.parametrize(
    ("fields", "cause", "hint"),
    [
        ({"version": 0x20B}, "no 64-bit entry (boot protocol 2.11)", "Linux 3.8"),
        ({"xloadflags": 0}, "no 64-bit entry", "x86-64"),
        ({"syssize": 0}, "requests 0 bytes", "again"),
        ({"syssize": 0x20}, "requests 512 bytes", "again"),
        ({"pref_address": 0}, "at 0x0", "again"),
        ({"pref_address": 0xF_FFFF}, "at 0xfffff", "again"),
        ({"init_size": 64 << 20}, "does not fit into 64 MiB", "at least 97 MiB"),
        ({"pref_address": (1 << 64) - 1}, "does not fit", "MiB"),
        ({"syssize": 0x1000}, "truncated", "again"),
        ({"setup_sects": 200}, "truncated", "again"),
    ],
)
def test_invalid_bzimage_is_refused(
    tmp_path: Path, fields: dict[str, int], cause: str, hint: str
) -> None:
    path = tmp_path / "bzimage"
    path.write_bytes(bzimage(b"\xf4", **fields))
    with pytest.raises(ConfigError) as refused:
        kernel.load_kernel(Memory(64 << 20), str(path), "auto")
    assert cause in refused.value.cause
    assert hint in refused.value.hint


def test_truncated_bzimage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bzimage"
    whole = bzimage(b"\xf4")
    for size in range(0, len(whole), 101):
        path.write_bytes(whole[:size])
        with pytest.raises(ConfigError):
            kernel.load_kernel(Memory(64 << 20), str(path), "auto")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (bytes(510) + b"\x55\xaa" + bytes(1024), "a disk with a DOS/MBR boot sector"),
        (bytes(510) + b"\x55\xaaEFI PART" + bytes(1024), "a disk with a GUID partition table"),
        (b"QFI\xfb\0\0\0\x03" + bytes(1024), "a qcow2 disk image"),
        (b"MZ\x90\0" + bytes(1024), "an EFI program"),
    ],
)
def test_file_that_needs_firmware_is_refused(
    run: Runner, tmp_path: Path, data: bytes, what: str
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(data)
    with pytest.raises(ProvisionError, match=what) as refused:
        run.start("create", "guest", kernel=str(path), vsock=False)
    assert "firmware; this VMM has no firmware" in refused.value.cause
    assert "extract its kernel and initramfs" in refused.value.hint


NO_ENTRY = elf(b"\xf4", note=False).replace(struct.pack("<Q", BASE), bytes(8), 1)


@pytest.mark.parametrize(
    ("data", "fields", "cause"),
    [
        (bzimage(b"\xf4"), {"boot": "pvh"}, "is a bzImage, which has no PVH entry"),
        (elf(b"\xf4", note=False), {"boot": "pvh"}, "has no PVH entry note"),
        (elf(b"\xf4"), {"boot": "floppy"}, "no boot protocol"),
        (elf(b"\xf4"), {"boot": 1}, "boot is no str"),
        (NO_ENTRY, {}, "neither a PVH entry note nor an ELF entry"),
    ],
)
def test_unsupported_boot_protocol_is_refused(
    run: Runner, tmp_path: Path, data: bytes, fields: dict[str, Any], cause: str
) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(data)
    with pytest.raises(ProvisionError, match=cause):
        run.start("create", "guest", kernel=str(path), vsock=False, **fields)
