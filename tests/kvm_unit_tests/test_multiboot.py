"""Multiboot kernels laid out in memory with what they are told, and refusals."""

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
    """A file that its header's addresses describe."""
    return header(1 << 16, load, load, 0, 0, entry) + code


class Guest:
    """Memory of a guest as the loader leaves it."""

    def __init__(self, loaded: multiboot.Loaded) -> None:
        self.memory = bytearray(1 << 20)
        place, told = loaded.told
        self.memory[place : place + len(told)] = told
        self.info = struct.unpack_from("<22I", self.memory, loaded.registers["rbx"])

    def text(self, at: int) -> str:
        return self.memory[at : self.memory.index(0, at)].decode()


def test_a_kernel_and_what_it_is_told() -> None:
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
def test_the_memory_map(size: int, high: int) -> None:
    loaded = multiboot.load(flat(), "", size)
    place, told = loaded.told
    info = struct.unpack_from("<22I", told)
    assert info[2] == (min(size, 3072) - 1) * 1024, "to the first hole"
    length, at = info[11], info[12] - place
    areas = [struct.unpack_from("<IQQI", told, at + offset) for offset in range(0, length, 24)]
    assert {area[0] for area in areas} == {20}, "less the field itself"
    free = {start: size for _, start, size, kind in areas if kind == 1}
    assert free[0x10_0000] == (min(size, 3072) - 1) << 20
    assert free.get(1 << 32, 0) == high << 20


def test_without_a_module_there_is_none() -> None:
    info = Guest(multiboot.load(flat(), "", 64)).info
    assert info[0] == 0b1000101
    assert info[5:7] == (0, 0)


def test_an_elf_lies_where_it_says(tmp_path: Path) -> None:
    data = build(PASS, tmp_path / "kernel")
    loaded = multiboot.load(data, "", 64)
    ((gpa, offset, size),) = loaded.segments
    assert gpa == BASE
    assert BASE < loaded.entry < BASE + 4096
    assert b"PASS: all is well" in data[offset : offset + size]


def test_a_header_may_come_late_and_on_a_word_only() -> None:
    data = flat(load=0x10_0000 - 8188 + 32)
    with pytest.raises(ProvisionError, match="no Multiboot header"):
        multiboot.load(bytes(2) + data, "", 64)
    with pytest.raises(ProvisionError, match="no Multiboot header"):
        multiboot.load(bytes(8192 - 8) + data, "", 64)
    late = bytes(8192 - 12) + header(1 << 16, 0x10_2000 - 12, 0x10_0000, 0, 0, 0x10_2020)
    assert multiboot.load(late, "", 64).segments == [(0x10_0000, 0, len(late))]


def test_addresses_may_cut_the_file_on_both_sides() -> None:
    data = b"....." * 4 + header(1 << 16, 0x20_0000, 0x20_0000, 0x20_0030, 0x30_0000, 0x20_0020)
    data += b"code" * 4 + b"symbols"
    assert multiboot.load(data, "", 64).segments == [(0x20_0000, 20, 0x30)]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "no Multiboot header"),
        (struct.pack("<III", MAGIC, 0, 0), "no Multiboot header"),
        (header(4), r"wants what is not there \(flags 0x4\)"),
        (header(0x8000), r"flags 0x8000"),
        (header(1 << 16), "truncated"),
        (header(0) + bytes(64), "no little-endian ELF"),
        (header(1 << 16, 0x10_0000, 0x20_0000, 0, 0, 0), "addresses .* cannot be"),
        (header(1 << 16, 0x10_0000, 0x10_0000, 0x20_0000, 0, 0), "addresses .* cannot be"),
        (header(1 << 16, 0x10_0000, 0x10_0000, 0x10_0000 - 1, 0, 0), "addresses .* cannot be"),
        (header(1 << 16, 0x10_0000, 0x10_0000, 0, 0x10_0001, 0), "addresses .* cannot be"),
        (flat(load=0x3FF_FFF0), "does not fit into 64 MiB"),
        (flat(load=0xFFFF_FFF0), "does not fit into 64 MiB"),
        (flat(load=0x7_0000), "0x70000 lies where the loader"),
        (flat(load=0xF_FFF0), "0xffff0 lies where the loader"),
    ],
)
def test_kernels_that_cannot_be_are_refused(data: bytes, cause: str) -> None:
    with pytest.raises(ProvisionError, match=cause) as caught:
        multiboot.load(data, "", 64)
    assert caught.value.stage == "create"


@pytest.mark.parametrize(("cmdline", "module"), [("x" * 200_000, b""), ("", bytes(200_000))])
def test_what_is_told_has_little_room(cmdline: str, module: bytes) -> None:
    with pytest.raises(ProvisionError, match="too large"):
        multiboot.load(flat(), cmdline, 64, module)
