"""Serial port, buses, PCI, console and ACPI tables, each by itself."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from harness.vmm.boot import acpi
from harness.vmm.console import Console
from harness.vmm.devices.bus import Bus, Buses
from harness.vmm.devices.pci import IO_START, MMIO_START, BarKind, Function, HostBridge
from harness.vmm.devices.serial import Serial

IIR, LCR, MCR, LSR, MSR, IER = 2, 3, 4, 5, 6, 1


class Ram:
    """A device that remembers."""

    def __init__(self) -> None:
        self.cells: dict[int, int] = {}

    def read(self, offset: int, size: int) -> int:
        return self.cells.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        self.cells[offset] = value


def test_bus_gives_nobody_all_ones_and_keeps_ranges_apart() -> None:
    bus, device = Bus(), Ram()
    bus.add(0x100, 8, device)
    for overlap in (0xFC, 0x100, 0x107):
        with pytest.raises(ValueError, match="overlaps"):
            bus.add(overlap, 8, Ram())
    bus.write(0x104, 2, 0xBEEF)
    assert device.cells == {4: 0xBEEF}
    assert bus.read(0x104, 2) == 0xBEEF
    assert bus.read(0x108, 4) == 0xFFFF_FFFF
    assert bus.read(0x107, 2) == 0xFFFF  # it would leave the range
    bus.remove(0x100)
    assert bus.read(0x104, 1) == 0xFF


class Port:
    """A serial port with its output and interrupt line in view."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.levels: list[int] = []
        self.uart = Serial(self.out.append, self.levels.append)


def test_serial_prints_and_is_always_ready() -> None:
    port = Port()
    for byte in b"ok\n":
        assert port.uart.read(LSR, 1) & 0x60 == 0x60
        port.uart.write(0, 1, byte)
    assert port.out == b"ok\n"


def test_serial_looks_like_a_16550a_to_linux() -> None:
    """The steps of 8250_port.c's autoconfig."""
    port = Port()
    port.uart.write(MCR, 1, 0x10 | 0x0A)
    assert port.uart.read(MSR, 1) & 0xF0 == 0x90
    port.uart.write(MCR, 1, 0)
    port.uart.write(IIR, 1, 1)
    assert port.uart.read(IIR, 1) >> 6 == 3
    port.uart.write(LCR, 1, 0x80)
    port.uart.write(0, 1, 0x0C)
    assert port.uart.read(0, 1) == 0x0C
    assert port.out == b""


def test_serial_interrupts() -> None:
    port = Port()
    port.uart.write(IER, 1, 2)
    assert port.levels == [1]  # the holding register is empty
    assert port.uart.read(IIR, 1) & 0xF == 2
    assert port.levels == [1, 0]
    assert port.uart.read(IIR, 1) & 0xF == 1
    port.uart.write(IER, 1, 1)
    port.uart.receive(b"x")
    assert port.levels[-1] == 1
    assert port.uart.read(IIR, 1) & 0xF == 4
    assert port.uart.read(LSR, 1) & 1
    assert port.uart.read(0, 1) == ord("x")
    assert port.levels[-1] == 0


class Pci:
    """A bridge with one function of a memory and a port BAR, reached as a guest reaches it."""

    def __init__(self) -> None:
        self.buses = Buses()
        self.bridge = HostBridge(self.buses)
        self.function = Function(0x1AF4, 0x1042, 0x018000, 0x42)
        self.memory, self.ports = Ram(), Ram()
        self.function.add_bar(0, BarKind(0x4000, False, self.memory))
        self.function.add_bar(2, BarKind(0x10, True, self.ports))
        self.slot = self.bridge.add(self.function)
        self.mapped: list[tuple[int, int | None]] = []
        self.function.on_map = lambda index, address: self.mapped.append((index, address))

    def address(self, register: int) -> None:
        self.buses.pio.write(0xCF8, 4, 0x8000_0000 | self.slot << 11 | register & 0xFC)

    def read(self, register: int, size: int = 4) -> int:
        self.address(register)
        return self.buses.pio.read(0xCFC + (register & 3), size)

    def write(self, register: int, value: int, size: int = 4) -> None:
        self.address(register)
        self.buses.pio.write(0xCFC + (register & 3), size, value)


def test_pci_identity_and_absent_slots() -> None:
    pci = Pci()
    assert pci.read(0) == 0x1042_1AF4
    assert pci.read(2, 2) == 0x1042
    pci.slot = 9
    assert pci.read(0) == 0xFFFF_FFFF


def test_bar_sizing_as_the_specification_has_it() -> None:
    pci = Pci()
    before = pci.read(0x10)
    assert before == MMIO_START
    pci.write(0x10, 0xFFFF_FFFF)
    assert pci.read(0x10) == 0xFFFF_C000
    pci.write(0x10, before)
    pci.write(0x18, 0xFFFF_FFFF)
    assert pci.read(0x18) == 0xFFFF_FFF1
    assert pci.mapped == []  # decoding is still off


def test_bars_decode_when_enabled_and_move() -> None:
    pci = Pci()
    pci.write(0x04, 3, 2)
    assert pci.mapped == [(0, MMIO_START), (2, IO_START)]
    pci.buses.mmio.write(MMIO_START + 8, 4, 7)
    assert pci.memory.cells == {8: 7}
    pci.write(0x10, MMIO_START + 0x10_0000)
    assert pci.buses.mmio.read(MMIO_START + 8, 4) == 0xFFFF_FFFF
    assert pci.buses.mmio.read(MMIO_START + 0x10_0008, 4) == 7
    pci.write(0x04, 0, 2)
    assert pci.buses.mmio.read(MMIO_START + 0x10_0008, 4) == 0xFFFF_FFFF


def test_a_bar_cannot_shadow_other_devices() -> None:
    pci = Pci()
    pci.buses.pio.add(0x3F8, 8, Ram())
    pci.write(0x04, 3, 2)
    pci.write(0x18, 0x3F0)
    pci.write(0x10, 0xFEE0_0000)
    assert pci.function.bar_address(0) is None
    assert pci.function.bar_address(2) is None


def test_reset_control_register_is_not_the_address_register() -> None:
    pci = Pci()
    values: list[int] = []
    pci.bridge.on_reset_control = values.append
    pci.address(0x3C)
    pci.buses.pio.write(0xCF9, 1, 6)
    assert values == [6]
    pci.buses.pio.write(0xCFC, 1, 5)
    assert pci.function.config[0x3C] == 5


def test_console_lines_panic_and_bounds() -> None:
    lines: list[str] = []
    console = Console(lambda at, text: lines.append(text))
    for byte in b"one\r\n[ 1.0] Kernel panic - not syncing: sysrq triggered crash\n":
        console.byte(byte)
    assert lines[0] == "one"
    assert console.panic == "sysrq triggered crash"
    for _ in range(10_000):
        console.byte(ord("x"))
    assert max(map(len, lines)) == 4096
    console.flush_stale(0)
    assert "".join(lines[2:]) == "x" * 10_000


def tables() -> dict[str, bytes]:
    """ACPI tables by signature, found as a kernel finds them: from the RSDP on."""
    blob = acpi.tables(4)

    def at(address: int) -> bytes:
        start = address - acpi.BASE
        (length,) = struct.unpack_from("<I", blob, start + 4)
        return blob[start : start + length]

    assert len(blob) <= acpi.ROOM
    assert sum(blob[:20]) & 0xFF == 0
    assert sum(blob[:36]) & 0xFF == 0
    xsdt = at(struct.unpack_from("<Q", blob, 24)[0])
    found = {"XSDT": xsdt}
    for (address,) in struct.iter_unpack("<Q", xsdt[36:]):
        table = at(address)
        found[table[:4].decode()] = table
    found["DSDT"] = at(struct.unpack_from("<Q", found["FACP"], 140)[0])
    return found


def test_acpi_checksums() -> None:
    found = tables()
    assert set(found) == {"XSDT", "FACP", "APIC", "DSDT"}
    assert {name: sum(table) & 0xFF for name, table in found.items()} == dict.fromkeys(found, 0)


def test_madt_has_every_vcpu() -> None:
    body = tables()["APIC"][44:]
    kinds = []
    while body:
        kinds.append(body[0])
        body = body[body[1] :]
    assert kinds == [0, 0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize("name", ["DSDT", "FACP", "APIC"])
def test_intels_compiler_reads_the_tables(name: str, tmp_path: Path) -> None:
    if not shutil.which("iasl"):
        pytest.skip("no iasl (acpica-tools)")
    path = tmp_path / f"{name}.aml"
    path.write_bytes(tables()[name])
    done = subprocess.run(["iasl", "-d", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower()
    assert path.with_suffix(".dsl").exists()
