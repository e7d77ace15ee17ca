"""ACPI tables (ACPI 6.4, chapter 5): processors, power, and the PCI host bridge."""

from __future__ import annotations

import struct

from ..devices import pci, power
from . import aml

BASE = 0x000E_0000  # kernels scan this area for the RSDP (5.2.5.1)
MAX_SIZE = 0x0002_0000
_OEM = b"PYTHVM"
_LOCAL_APIC, _IO_APIC = 0xFEE0_0000, 0xFEC0_0000
_SCI = 9
_RSDP_SIZE, _FADT_SIZE = 36, 276


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    creator = (_OEM, b"HARNESS ", 1, b"HVMM", 1)
    header = struct.pack("<4sIBB6s8sI4sI", signature, 36 + len(body), revision, 0, *creator)
    table = bytearray(header + body)
    table[9] = -sum(table) & 0xFF
    return bytes(table)


def _madt(vcpus: int) -> bytes:
    """MADT (5.2.12): a local APIC per vCPU, an IOAPIC, the PIT on pin 2, a level-triggered SCI."""
    body = struct.pack("<II", _LOCAL_APIC, 1)
    for index in range(vcpus):
        body += struct.pack("<BBBBI", 0, 8, index, index, 1)
    body += struct.pack("<BBBBII", 1, 12, 0, 0, _IO_APIC, 0)
    body += struct.pack("<BBBBIH", 2, 10, 0, 0, 2, 0)
    body += struct.pack("<BBBBIH", 2, 10, 0, _SCI, _SCI, 0x0D)
    return _table(b"APIC", 4, body)


def _fadt(facs: int, dsdt: int) -> bytes:
    """FADT (5.2.9): the fixed hardware is the PM1 blocks and the reset register."""
    table = bytearray(_FADT_SIZE)
    struct.pack_into("<II", table, 36, facs, dsdt)
    struct.pack_into("<H", table, 46, _SCI)
    struct.pack_into("<I", table, 56, power.PM1_EVENT)
    struct.pack_into("<I", table, 64, power.PM1_CONTROL)
    table[88], table[89] = 4, 2  # lengths of the two blocks
    struct.pack_into("<HH", table, 96, 0xFFFF, 0xFFFF)  # C2 and C3 are not supported
    # boot architecture: no VGA (bit 2), no CMOS clock (bit 5), and no 8042 (bit 1 is 0)
    struct.pack_into("<H", table, 109, 0x24)
    # flags: WBINVD, C1, no sleep button, reset register
    struct.pack_into("<I", table, 112, 1 | 1 << 2 | 1 << 5 | 1 << 10)
    struct.pack_into("<BBBBQ", table, 116, 1, 8, 0, 1, power.RESET_CONTROL)
    table[128] = power.RESET_VALUE
    struct.pack_into("<Q", table, 140, dsdt)
    struct.pack_into("<BBBBQ", table, 148, 1, 32, 0, 2, power.PM1_EVENT)
    struct.pack_into("<BBBBQ", table, 172, 1, 16, 0, 2, power.PM1_CONTROL)
    table[131] = 4
    return _table(b"FACP", 6, bytes(table[36:]))


def _mcfg() -> bytes:
    """MCFG (PCI Firmware Specification 3.0, 4.1.2): the address of ECAM."""
    return _table(b"MCFG", 1, struct.pack("<8xQHBB4x", pci.ECAM_START, 0, 0, 0))


def _dsdt(ecam: bool) -> bytes:
    """DSDT: the PCI host bridge and the soft-off state."""
    config = () if ecam else (aml.io_ports(pci.CONFIG_ADDRESS, 8),)
    bridge = aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A03"))
        + aml.name("_UID", aml.integer(0))
        + aml.name("_BBN", aml.integer(0))
        + aml.name(
            "_CRS",
            aml.resources(
                aml.bus_numbers(0, 0),
                *config,
                aml.io_window(pci.IO_START, pci.IO_SIZE),
                aml.memory_window(pci.MMIO_START, pci.MMIO_SIZE),
            ),
        ),
    )
    # Linux uses the MCFG only if a motherboard resource reserves the same range
    reserved = aml.name("_HID", aml.eisa_id("PNP0C02")) + aml.name(
        "_CRS", aml.resources(aml.memory(pci.ECAM_START, pci.ECAM_SIZE))
    )
    board = bridge + aml.device("RES0", reserved) if ecam else bridge
    soft_off = aml.integer(power.SLEEP_TYPE_OFF)
    s5 = aml.name("\\_S5_", aml.package(soft_off, soft_off, aml.integer(0), aml.integer(0)))
    return _table(b"DSDT", 2, aml.scope("\\_SB_", board) + s5)


def tables(vcpus: int, *, ecam: bool) -> bytes:
    """All tables, RSDP first, for address BASE. At most MAX_SIZE bytes. ecam: whether PCI's
    configuration space is in memory (HostBridge.enable_ecam)."""
    blob = bytearray(_RSDP_SIZE + 28)

    def append(table: bytes) -> int:
        address = BASE + len(blob)
        blob.extend(table.ljust((len(table) + 15) & ~15, b"\0"))
        return address

    while (BASE + len(blob)) % 64:
        blob.append(0)
    facs = append(struct.pack("<4sI24xB31x", b"FACS", 64, 2))
    entries = [append(_fadt(facs, append(_dsdt(ecam)))), append(_madt(vcpus))]
    if ecam:
        entries.append(append(_mcfg()))
    xsdt = append(_table(b"XSDT", 1, struct.pack(f"<{len(entries)}Q", *entries)))
    # kvm-unit-tests read the RSDT only
    rsdt = append(_table(b"RSDT", 1, struct.pack(f"<{len(entries)}I", *entries)))
    rsdp = bytearray(struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, _OEM, 2, rsdt, 36, xsdt, 0))
    rsdp[8] = -sum(rsdp[:20]) & 0xFF
    rsdp[32] = -sum(rsdp) & 0xFF
    blob[:_RSDP_SIZE] = rsdp
    return bytes(blob)
