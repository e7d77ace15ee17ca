"""PVH boot: loading kernels and initramfs, start information."""

from __future__ import annotations

import itertools
import os
import struct
from pathlib import Path

import pytest

from harness.kvm.errors import ConfigError
from harness.vmm.boot import acpi, kernel, pvh
from harness.vmm.memory import Memory
from tests.vmm.payload import BASE, elf

CODE = bytes(range(256)) * 32


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory(64 << 20)


def write_kernel(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "file"
    path.write_bytes(data)
    return str(path)


def load(memory: Memory, path: str) -> pvh.Kernel:
    return kernel.load_kernel(memory, path, "pvh")


def refused(call: object, *arguments: object) -> ConfigError:
    assert callable(call)
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    return caught.value


def test_segments_are_loaded_at_their_addresses(memory: Memory, tmp_path: Path) -> None:
    loaded = load(memory, write_kernel(tmp_path, elf(CODE)))
    assert (loaded.entry, loaded.end, loaded.long_mode) == (BASE, BASE + len(CODE), False)
    assert bytes(memory.view(BASE, len(CODE))) == CODE


def test_bss_extends_the_kernels_end(memory: Memory, tmp_path: Path) -> None:
    data = bytearray(elf(CODE))
    struct.pack_into("<Q", data, 64 + 40, 5 << 20)  # p_memsz
    assert load(memory, write_kernel(tmp_path, bytes(data))).end == BASE + (5 << 20)


def note(name: bytes, kind: int, body: bytes) -> bytes:
    def padded(data: bytes) -> bytes:
        return data.ljust((len(data) + 3) & ~3, b"\0")

    return struct.pack("<III", len(name), len(body), kind) + padded(name) + padded(body)


def test_entry_is_read_among_other_notes() -> None:
    others = note(b"GNU\0", 18, b"1234") + note(b"Xen\0", 6, b"linux\0") + note(b"", 0, b"")
    for size in (4, 8):
        entry = note(b"Xen\0", 18, (0x123_4567).to_bytes(size, "little"))
        assert pvh._entry(others + entry) == 0x123_4567
    assert pvh._entry(others) is None
    assert pvh._entry(b"") is None
    assert pvh._entry(note(b"Xen\0", 18, b"1234")[:11]) is None
    assert pvh._entry(struct.pack("<III", 0xFFFF_FFFF, 0xFFFF_FFFF, 18)) is None


@pytest.mark.parametrize(
    ("patch", "cause"),
    [
        ((0, b"MZ"), "an EFI program"),
        ((0, b"AZ"), "not a 64-bit ELF"),
        ((4, b"\1"), "not a 64-bit ELF"),
        ((5, b"\2"), "not a 64-bit ELF"),
        ((54, b"\0\0"), "invalid ELF program header"),
        ((56, b"\0\0"), "invalid ELF program header"),
        ((56, b"\xff\xff"), "invalid ELF program header"),
        ((32, b"\xff" * 8), "truncated"),
        ((32, (1 << 40).to_bytes(8, "little")), "truncated"),
        ((64 + 8, b"\xff" * 8), "truncated"),
        ((64 + 8, (1 << 40).to_bytes(8, "little")), "truncated"),
        ((64 + 24, (1 << 40).to_bytes(8, "little")), "does not fit"),
        ((64 + 24, b"\xff" * 8), "does not fit"),
        ((64 + 24, (0x6000).to_bytes(8, "little")), "where its start information"),
        ((64 + 24, (0xF_0000).to_bytes(8, "little")), "where its start information"),
        ((64 + 32, (1 << 20).to_bytes(8, "little")), "invalid ELF program header"),
        ((64 + 40, (64 << 20).to_bytes(8, "little")), "does not fit"),
        ((64 + 56 + 32, (1 << 19).to_bytes(8, "little")), "truncated"),
        ((64 + 56, b"\0"), "no PVH entry"),
    ],
)
def test_invalid_kernel_is_refused(
    memory: Memory, tmp_path: Path, patch: tuple[int, bytes], cause: str
) -> None:
    data = bytearray(elf(CODE))
    at, value = patch
    data[at : at + len(value)] = value
    error = refused(load, memory, write_kernel(tmp_path, bytes(data)))
    assert cause in error.cause
    assert error.hint


def test_truncated_kernel_is_refused(memory: Memory, tmp_path: Path) -> None:
    whole = elf(CODE)
    for size in range(0, len(whole), 101):
        error = refused(load, memory, write_kernel(tmp_path, whole[:size]))
        assert "truncated" in error.cause or "not a 64-bit ELF" in error.cause


def test_hint_names_the_memory_that_a_kernel_needs(tmp_path: Path) -> None:
    data = bytearray(elf(CODE))
    struct.pack_into("<Q", data, 64 + 40, 30 << 20)
    error = refused(load, Memory(16 << 20), write_kernel(tmp_path, bytes(data)))
    assert "16 MiB" in error.cause
    assert "at least 63 MiB" in error.hint


@pytest.mark.parametrize("path", ["/absent", "/proc", ""])
def test_path_that_is_not_a_kernel_is_refused(memory: Memory, path: str) -> None:
    assert refused(load, memory, path).hint == "check the path"


# initramfs

KERNEL = pvh.Kernel(BASE, 8 << 20)


@pytest.mark.parametrize("size", [1, 4095, 4096, 1 << 20])
def test_initramfs_is_page_aligned_at_the_top_of_memory(
    memory: Memory, tmp_path: Path, size: int
) -> None:
    data = os.urandom(size)
    address, length = pvh.load_initramfs(memory, write_kernel(tmp_path, data), KERNEL)
    assert length == size
    assert address % 4096 == 0
    assert 0 <= memory.size - address - size < 4096
    assert bytes(memory.view(address, size)) == data


def test_hint_names_the_memory_that_an_initramfs_needs(memory: Memory, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 25 << 20)
    error = refused(pvh.load_initramfs, memory, str(path), KERNEL)
    assert "64 MiB" in error.cause
    assert "at least 66 MiB" in error.hint
    os.truncate(path, 1 << 40)
    assert "do not fit" in refused(pvh.load_initramfs, memory, str(path), KERNEL).cause


@pytest.mark.parametrize("path", ["/absent", "/proc", "/dev/null"])
def test_path_that_is_not_an_initramfs_is_refused(memory: Memory, path: str) -> None:
    error = refused(pvh.load_initramfs, memory, path, KERNEL)
    assert path in error.cause
    assert error.hint


# start information


def read_back(memory: Memory, at: int) -> dict[str, int]:
    names = "magic version flags modules module_list cmdline rsdp map entries reserved"
    values = struct.unpack("<IIIIQQQQII", memory.view(at, 56))
    return dict(zip(names.split(), values, strict=True))


def test_start_info_has_cmdline_modules_and_memory_map(memory: Memory) -> None:
    info = read_back(memory, pvh.write_start_info(memory, "quiet panic=-1", (0x3F0_0000, 777), 2))
    assert (info["magic"], info["version"], info["flags"]) == (0x336EC578, 1, 0)
    assert bytes(memory.view(info["cmdline"], 15)) == b"quiet panic=-1\0"
    assert bytes(memory.view(info["rsdp"], 8)) == b"RSD PTR "
    assert info["rsdp"] == acpi.BASE
    assert info["modules"] == 1
    assert struct.unpack("<QQQQ", memory.view(info["module_list"], 32)) == (0x3F0_0000, 777, 0, 0)
    info = read_back(memory, pvh.write_start_info(memory, "", None, 1))
    assert (info["modules"], info["module_list"]) == (0, 0)


@pytest.mark.parametrize("size", [64 << 20, 3 << 30, 5 << 30])
def test_memory_map_is_sorted_and_covers_memory_without_the_bios_hole(size: int) -> None:
    memory = Memory(size)
    info = read_back(memory, pvh.write_start_info(memory, "", None, 1))
    entries = list(
        struct.iter_unpack("<QQII", memory.view(info["map"], 24 * info["entries"])),
    )
    ram = [(start, start + length) for start, length, kind, _ in entries if kind == 1]
    everything = sorted((start, start + length) for start, length, _, _ in entries)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(everything))
    hole = 0x10_0000 - 0x9_FC00
    assert sum(end - start for start, end in ram) == size - hole
    for start, end in ram:
        memory.view(start, end - start)
    tables = (acpi.BASE, acpi.BASE + acpi.MAX_SIZE)
    assert not any(start < tables[1] and tables[0] < end for start, end in ram)
    assert all(start <= info["map"] < end for start, end in ram[:1])


def test_command_line_above_the_kernels_limit_is_refused(memory: Memory) -> None:
    pvh.write_start_info(memory, "x" * 2047, None, 1)
    error = refused(pvh.write_start_info, memory, "x" * 2048, None, 1)
    assert "2048" in error.cause
    assert "shorten" in error.hint
