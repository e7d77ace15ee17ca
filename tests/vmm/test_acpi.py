"""The ACPI tables as a kernel reads them, and their AML encoding."""

from __future__ import annotations

import itertools
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from harness.vmm.boot import acpi, aml
from harness.vmm.devices import pci, power

COUNTS = [1, 2, 4, 254]


class Tables:
    """All tables of a machine, found from the RSDP (ACPI 6.4, 5.2.5)."""

    def __init__(self, vcpus: int, ecam: bool = True) -> None:
        self.blob = acpi.tables(vcpus, ecam=ecam)
        self.places: dict[str, tuple[int, int]] = {}
        self.by_name: dict[str, bytes] = {}
        (xsdt,) = struct.unpack_from("<Q", self.blob, 24)
        self.take(xsdt)
        for (address,) in struct.iter_unpack("<Q", self.by_name["XSDT"][36:]):
            self.take(address)
        facs, dsdt = struct.unpack_from("<II", self.by_name["FACP"], 36)
        self.take(facs)
        self.take(dsdt)

    def take(self, address: int) -> None:
        at = address - acpi.BASE
        (length,) = struct.unpack_from("<I", self.blob, at + 4)
        assert 0 < at < at + length <= len(self.blob)
        name = self.blob[at : at + 4].decode()
        self.by_name[name] = self.blob[at : at + length]
        self.places[name] = (at, at + length)


@pytest.mark.parametrize("vcpus", COUNTS)
def test_tables_have_valid_lengths_checksums_and_addresses(vcpus: int) -> None:
    tables = Tables(vcpus)
    assert len(tables.blob) <= acpi.MAX_SIZE
    assert set(tables.by_name) == {"XSDT", "FACP", "APIC", "FACS", "DSDT", "MCFG"}
    for name, table in tables.by_name.items():
        if name != "FACS":  # it has no checksum
            assert sum(table) & 0xFF == 0, name
    ends = sorted([(0, 36), *tables.places.values()])
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))


def test_rsdp_is_valid() -> None:
    blob = acpi.tables(1, ecam=True)
    assert blob[:8] == b"RSD PTR "
    assert (sum(blob[:20]) & 0xFF, sum(blob[:36]) & 0xFF) == (0, 0)
    assert (blob[15], struct.unpack_from("<I", blob, 20)[0]) == (2, 36)
    assert acpi.BASE % 16 == 0  # kernels search in steps of 16
    assert 0xE_0000 <= acpi.BASE < acpi.BASE + acpi.MAX_SIZE <= 0x10_0000


def test_fadt_describes_the_existing_registers() -> None:
    tables = Tables(1)
    fadt = tables.by_name["FACP"]
    assert len(fadt) == 276
    assert (tables.places["FACS"][0] + acpi.BASE) % 64 == 0
    event, control = (struct.unpack_from("<I", fadt, at)[0] for at in (56, 64))
    assert (event, control) == (power.PM1_EVENT, power.PM1_CONTROL)
    assert struct.unpack_from("<BBBBQ", fadt, 148) == (1, 32, 0, 2, event)
    assert struct.unpack_from("<BBBBQ", fadt, 172) == (1, 16, 0, 2, control)
    assert struct.unpack_from("<BBBBQ", fadt, 116) == (1, 8, 0, 1, power.RESET_CONTROL)
    assert fadt[128] == power.RESET_VALUE
    (flags,) = struct.unpack_from("<I", fadt, 112)
    assert flags & 1 << 10  # the reset register works
    assert not flags & 1 << 20  # not "hardware-reduced": the fixed registers exist
    assert struct.unpack_from("<I", fadt, 48) == (0,)  # no SMI command: ACPI is on from the start


@pytest.mark.parametrize("vcpus", COUNTS)
def test_madt_lists_each_vcpu_once(vcpus: int) -> None:
    body = Tables(vcpus).by_name["APIC"][44:]
    entries: dict[int, list[bytes]] = {}
    while body:
        assert 2 <= body[1] <= len(body)
        entries.setdefault(body[0], []).append(body[: body[1]])
        body = body[body[1] :]
    assert [(entry[2], entry[3], entry[4]) for entry in entries[0]] == [
        (index, index, 1) for index in range(vcpus)
    ]
    (ioapic,) = entries[1]
    assert struct.unpack_from("<II", ioapic, 4) == (0xFEC0_0000, 0)
    overrides = [struct.unpack_from("<BBIH", entry, 2) for entry in entries[2]]
    assert overrides == [(0, 0, 2, 0), (0, 9, 9, 0x0D)]


def test_ecam_is_in_mcfg_and_motherboard_resources_or_absent() -> None:
    """Linux ignores an MCFG that no motherboard resource confirms."""
    entry = struct.unpack_from("<QHBB", Tables(1).by_name["MCFG"], 44)
    assert entry == (pci.ECAM_START, 0, 0, 0), "base, segment, first and last bus"
    reserved = aml.memory(pci.ECAM_START, pci.ECAM_SIZE)
    assert reserved in Tables(1).by_name["DSDT"]
    ports = Tables(1, ecam=False).by_name
    assert "MCFG" not in ports
    assert reserved not in ports["DSDT"]
    assert aml.io_ports(pci.CONFIG_ADDRESS, 8) in ports["DSDT"]


@pytest.mark.parametrize("name", ["DSDT", "FACP", "APIC", "XSDT", "FACS", "MCFG"])
@pytest.mark.parametrize("vcpus", [1, 254])
def test_iasl_disassembles_the_tables(name: str, vcpus: int, tmp_path: Path) -> None:
    if not shutil.which("iasl"):
        pytest.skip("no iasl (package acpica-tools)")
    path = tmp_path / f"{name.lower()}.dat"
    path.write_bytes(Tables(vcpus).by_name[name])
    output = _iasl("-d", path)
    assert "error" not in output.lower().replace("no errors", "")
    assert "warning" not in output.lower()
    listing = path.with_suffix(".dsl")
    text = listing.read_text()
    assert "incorrect" not in text.lower()  # iasl's word for a wrong checksum
    assert "invalid" not in text.lower()
    if name == "DSDT":
        assert "0 Errors, 0 Warnings" in _iasl("-we", listing)


def _iasl(*arguments: object) -> str:
    done = subprocess.run(
        ["iasl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# AML


@pytest.mark.parametrize("size", [0, 1, 0x3E, 0x3F, 0x40, 0xFFD, 0xFFE, 0xFFF, 0x1000, 0x1_2345])
def test_package_length_includes_its_own_length(size: int) -> None:
    encoded = aml.package_length(b"x" * size)
    follow = encoded[0] >> 6
    assert len(encoded) == 1 + follow
    low = encoded[0] & (0x0F if follow else 0x3F)
    assert not (follow and encoded[0] & 0x30)
    length = low + sum(byte << (4 + 8 * at) for at, byte in enumerate(encoded[1:]))
    assert length == size + len(encoded)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0xFFFF, "0bffff"),
        (0x1_0000, "0c00000100"),
        (1 << 32, "0e0000000001000000"),
    ],
)
def test_integers_use_the_shortest_encoding(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


def test_names_are_padded() -> None:
    assert aml.eisa_id("PNP0A03").hex() == "0c41d00a03"
    assert aml.path("\\_S5") == b"\\_S5_"
    assert aml.path("PCI0") == b"PCI0"


def test_windows_equal_the_bridge_windows() -> None:
    ports = aml.io_window(pci.IO_START, pci.IO_SIZE)
    memory = aml.memory_window(pci.MMIO_START, pci.MMIO_SIZE)
    for descriptor, kind, unit in ((ports, 0x88, "H"), (memory, 0x87, "I")):
        assert descriptor[0] == kind
        assert struct.unpack_from("<H", descriptor, 1)[0] == len(descriptor) - 3
        _, first, last, _, length = struct.unpack(f"<5{unit}", descriptor[6:])
        assert last - first + 1 == length
