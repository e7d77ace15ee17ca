"""Fuzz targets: the list and the kernels of kvm-unit-tests."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

from harness.errors import ProvisionError
from harness.kvm_unit_tests import catalogue, multiboot, requirements
from tests.vmm.fuzz import Source
from tests.vmm.fuzz_devices import mostly

WORDS = (
    *("[name]\n", "[", "]", "\n", " ", "\t", "=", "#", "'", '"', '"""', "`date +%s`", "`", "$(id)"),
    *("file", "smp", "extra_params", "groups", "check", "timeout", "test_args", "accel", "arch"),
    *(
        " = ",
        "file = a.flat\n",
        "smp = 2\n",
        "timeout = 1.5m\n",
        "check = /a=b\n",
        "arch = x86_64\n",
    ),
    *("extra_params = ", "-append ", "-cpu ", "-m ", "-smp ", "max", "+vmx", ",", "$MAX_SMP", "4g"),
    *("0", "-1", "9" * 30, "½", "٣", "../", "\0", "nan", "inf"),
)


def unit_tests(source: Source) -> None:
    """A list is parsed or refused; each test has a machine or a reason for its absence."""
    text = "[first]\nfile = first.flat\n" if source.chance() else ""
    while source:
        text += source.raw(3).decode("latin-1") if source.below(16) == 0 else source.pick(WORDS)
    with contextlib.suppress(catalogue.ListError):
        for entry in catalogue.parse_list(text, Path("/folder")):
            assert entry.file.parent == Path("/folder")
            assert 0 <= entry.timeout < float("inf")
            with contextlib.suppress(requirements.Unsupported):
                config = requirements.machine_config(entry, cpus=2)
                assert config.vcpus > 0
                assert 0 < config.memory <= 1 << 20


def elf32(source: Source) -> bytes:
    """The ELF headers after a Multiboot header, with some wrong fields."""
    wild = source.number(32)
    segments = b"".join(
        struct.pack(
            "<8I",
            *(mostly(source, 1, 0, wild), mostly(source, 0, 4096, wild), 0),
            mostly(source, 0x10_0000, 0x7_0000, 0xF_0000, 0x200_0000, wild),
            mostly(source, 64, 0, 4096, wild),
            *(mostly(source, 64, wild), 7, 4),
        )
        for _ in range(2)
    )
    count, size = mostly(source, 2, 0, wild & 0xFFFF), mostly(source, 32, wild & 0xFFFF)
    table = mostly(source, 52, 0, wild)
    head = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    header = struct.pack(
        "<HHIIIIIHHHHHH", 2, 3, 1, 0x10_0000, table, 0, 0, 52, size, count, 0, 0, 0
    )
    return head + header + segments


def multiboot_kernel(source: Source) -> None:
    """A kernel is loaded from its file into guest memory, or refused."""
    flags = mostly(source, source.pick((0, 1 << 16)), 4, source.number(32))
    checksum = -(multiboot.MAGIC + flags) & 0xFFFF_FFFF
    wild = source.number(32)
    addresses = [mostly(source, 0x10_0000, 0, 0xF_FFF0, wild) for _ in range(2)]
    addresses += [mostly(source, 0, 0x10_0020, wild), mostly(source, 0, 0x20_0000, wild), wild]
    header = struct.pack("<8I", multiboot.MAGIC, flags, checksum, *addresses)
    data = (b"" if flags & 1 << 16 else elf32(source)) + header
    data += bytes(source.below(200))
    data = data[: mostly(source, len(data), source.below(len(data)))]
    memory = source.pick((1, 16, 64, 4096))
    cmdline = source.raw(source.below(5)).decode("latin-1") * source.pick((1, 1, 50_000))
    with contextlib.suppress(ProvisionError):
        loaded = multiboot.load(data, cmdline, memory, bytes(source.below(200)))
        place, information = loaded.information
        for gpa, offset, size in loaded.segments:
            assert 0 <= offset <= offset + size <= len(data)
            assert 0 <= gpa <= gpa + size <= memory << 20
            assert gpa + size <= place or place + len(information) <= gpa
