"""The Multiboot loader: layout in memory, boot information, and refused kernels."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.errors import ProvisionError
from harness.kvm_unit_tests import multiboot
from tests.kvm_unit_tests.kernels import BASE, PASS, build

MAGIC = 0x1BAD_B002


def header(flags: int, *addresses: int) -> bytes:
    checksum = -(MAGIC + flags) & 0xFFFF_FFFF
    return struct.pack(f"<{3 + len(addresses)}I", MAGIC, flags, checksum, *addresses)


def flat(load: int = 0x10_0000, entry: int = 0x10_0020, code: bytes = bytes(64)) -> bytes:
    """A flat file that its header's addresses describe."""
    return header(1 << 16, load, load, 0, 0, entry) + code


class Guest:
    """The guest's memory after the loader."""

    def __init__(self, loaded: multiboot.LoadedKernel) -> None:
        self.memory = bytearray(1 << 20)
        address, information = loaded.information
        self.memory[address : address + len(information)] = information
        self.info = struct.unpack_from("<22I", self.memory, loaded.registers["rbx"])

    def text(self, at: int) -> str:
        return self.memory[at : self.memory.index(0, at)].decode()


def test_kernel_gets_its_boot_information() -> None:
    loaded = multiboot.load(flat(), "name arguments", 64, b"A=1\n")
    assert loaded.registers["rax"] == 0x2BAD_B002
    assert loaded.entry == 0x10_0020
    guest = Guest(loaded)
    flags, lower, upper, _, cmdline, modules, modules_at = guest.info[:7]
    assert flags == 0b1001101
    assert (lower, upper) == (639, 63 * 1024)
    assert guest.text(cmdline) == "name arguments"
    assert modules == 1
    start, end, _, _ = struct.unpack_from("<4I", guest.memory, modules_at)
    assert start % 4096 == 0
    assert guest.memory[start:end] == b"A=1\n"


@pytest.mark.parametrize(("size", "high"), [(16, 0), (3072, 0), (5120, 2048)])
def test_memory_map_has_all_memory(size: int, high: int) -> None:
    loaded = multiboot.load(flat(), "", size)
    address, information = loaded.information
    info = struct.unpack_from("<22I", information)
    assert info[2] == (min(size, 3072) - 1) * 1024, "up to the first hole"
    length, at = info[11], info[12] - address
    areas = [
        struct.unpack_from("<IQQI", information, at + offset) for offset in range(0, length, 24)
    ]
    assert {area[0] for area in areas} == {20}, "without the size field"
    free = {start: size for _, start, size, kind in areas if kind == 1}
    assert free[0x10_0000] == (min(size, 3072) - 1) << 20
    assert free.get(1 << 32, 0) == high << 20


def test_no_module_is_announced_without_one() -> None:
    info = Guest(multiboot.load(flat(), "", 64)).info
    assert info[0] == 0b1000101
    assert info[5:7] == (0, 0)


def test_elf_file_is_loaded_at_its_addresses(tmp_path: Path) -> None:
    data = build(PASS, tmp_path / "kernel")
    loaded = multiboot.load(data, "", 64)
    ((gpa, offset, size),) = loaded.segments
    assert gpa == BASE
    assert BASE < loaded.entry < BASE + 4096
    assert b"PASS: all is well" in data[offset : offset + size]


def test_header_is_found_only_at_aligned_offsets_within_the_limit() -> None:
    data = flat(load=0x10_0000 - 8188 + 32)
    with pytest.raises(ProvisionError, match="no Multiboot header"):
        multiboot.load(bytes(2) + data, "", 64)
    with pytest.raises(ProvisionError, match="no Multiboot header"):
        multiboot.load(bytes(8192 - 8) + data, "", 64)
    late = bytes(8192 - 12) + header(1 << 16, 0x10_2000 - 12, 0x10_0000, 0, 0, 0x10_2020)
    assert multiboot.load(late, "", 64).segments == [(0x10_0000, 0, len(late))]


def test_addresses_may_select_a_part_of_the_file() -> None:
    data = b"....." * 4 + header(1 << 16, 0x20_0000, 0x20_0000, 0x20_0030, 0x30_0000, 0x20_0020)
    data += b"code" * 4 + b"symbols"
    assert multiboot.load(data, "", 64).segments == [(0x20_0000, 20, 0x30)]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "no Multiboot header"),
        (struct.pack("<III", MAGIC, 0, 0), "no Multiboot header"),
        (header(4), r"requires unsupported features \(flags 0x4\)"),
        (header(0x8000), r"flags 0x8000"),
        (header(1 << 16), "truncated"),
        (header(0) + bytes(64), "not a little-endian ELF"),
        (header(1 << 16, 0x10_0000, 0x20_0000, 0, 0, 0), "addresses .* are inconsistent"),
        (header(1 << 16, 0x10_0000, 0x10_0000, 0x20_0000, 0, 0), "addresses .* are inconsistent"),
        (
            header(1 << 16, 0x10_0000, 0x10_0000, 0x10_0000 - 1, 0, 0),
            "addresses .* are inconsistent",
        ),
        (header(1 << 16, 0x10_0000, 0x10_0000, 0, 0x10_0001, 0), "addresses .* are inconsistent"),
        (flat(load=0x3FF_FFF0), "does not fit into 64 MiB"),
        (flat(load=0xFFFF_FFF0), "does not fit into 64 MiB"),
        (flat(load=0x7_0000), "0x70000 overlaps memory of the loader"),
        (flat(load=0xF_FFF0), "0xffff0 overlaps memory of the loader"),
    ],
)
def test_invalid_kernel_is_refused(data: bytes, cause: str) -> None:
    with pytest.raises(ProvisionError, match=cause) as caught:
        multiboot.load(data, "", 64)
    assert caught.value.stage == "create"


@pytest.mark.parametrize(("cmdline", "module"), [("x" * 200_000, b""), ("", bytes(200_000))])
def test_large_boot_information_is_refused(cmdline: str, module: bytes) -> None:
    with pytest.raises(ProvisionError, match="too large"):
        multiboot.load(flat(), cmdline, 64, module)
