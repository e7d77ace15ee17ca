"""The serial port's registers (PC16550D), and how Linux detects the port."""

from __future__ import annotations

import pytest

from harness.vmm.devices.serial import Serial

DATA, IER, IIR, LCR, MCR, LSR, MSR, SCRATCH = range(8)
DLAB, LOOP = 0x80, 0x10


class Port:
    """A serial port that records its output and its interrupt line's levels."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.levels: list[int] = []
        self.uart = Serial(self.out.append, self.levels.append)
        self.read = self.uart.read

    def write(self, offset: int, value: int, size: int = 1) -> None:
        self.uart.write(offset, size, value)


@pytest.mark.parametrize(("control", "status"), [(1, 0x20), (2, 0x10), (4, 0x40), (8, 0x80)])
def test_loopback_connects_outputs_to_inputs(control: int, status: int) -> None:
    port = Port()
    port.write(MCR, LOOP | control)
    assert port.read(MSR, 1) == status


def test_loopback_sends_no_output() -> None:
    port = Port()
    port.write(MCR, LOOP)
    port.write(DATA, ord("x"))
    assert port.out == b""
    port.write(MCR, 0)
    port.write(DATA, ord("y"))
    assert port.out == b"y"


def test_modem_status_shows_a_connected_terminal() -> None:
    assert Port().read(MSR, 1) & 0xB0 == 0xB0


def test_divisor_latch_hides_data_and_interrupt_enable() -> None:
    port = Port()
    port.write(IER, 5)
    port.write(LCR, DLAB | 3)
    port.write(0, 0x0C)
    port.write(1, 0x01)
    assert (port.read(0, 1), port.read(1, 1)) == (0x0C, 0x01)
    assert port.read(SCRATCH, 1) == 0
    port.write(LCR, 3)
    assert (port.read(IER, 1), port.read(LCR, 1)) == (5, 3)
    assert port.out == b""


def test_fifo_bits_follow_the_enable_bit() -> None:
    port = Port()
    assert port.read(IIR, 1) == 0x01
    port.write(IIR, 0x07)
    assert port.read(IIR, 1) == 0xC1
    port.write(IIR, 0)
    assert port.read(IIR, 1) == 0x01


def test_registers_keep_only_their_implemented_bits() -> None:
    port = Port()
    for offset, mask in ((SCRATCH, 0xFF), (IER, 0x0F), (MCR, 0x1F), (LCR, 0x7F)):
        port.write(offset, mask | 0x60)
        assert port.read(offset, 1) == mask | (0x60 & mask)


def test_linux_detects_a_16550a() -> None:
    """Follows autoconfig() in 8250_port.c."""
    port = Port()
    port.write(MCR, LOOP | 0x0A)
    assert port.read(MSR, 1) & 0xF0 == 0x90
    port.write(MCR, 0)
    port.write(LCR, DLAB)
    assert port.read(IIR, 1) != 0  # no extended features register
    port.write(LCR, 0)
    port.write(IIR, 1)
    assert port.read(IIR, 1) >> 6 == 3
    assert port.out == b""


def test_linux_does_not_detect_an_xscale() -> None:
    """A port whose IER keeps bit 6 is an XScale (8250_port.c, autoconfig_16550a())."""
    port = Port()
    port.write(IER, 0)
    port.write(IER, 0x40)
    assert port.read(IER, 1) & 0x40 == 0


def test_status_registers_are_read_only() -> None:
    port = Port()
    before = port.read(LSR, 1), port.read(MSR, 1)
    port.write(LSR, 0)
    port.write(MSR, 0)
    assert (port.read(LSR, 1), port.read(MSR, 1)) == before == (0x60, 0xB0)


def test_transmit_interrupt_is_acknowledged_and_raised_again() -> None:
    port = Port()
    port.write(IER, 2)
    for _ in range(3):
        assert port.levels[-1] == 1
        assert port.read(IIR, 1) & 0x0F == 2
        assert port.levels[-1] == 0
        assert port.read(IIR, 1) & 0x0F == 1
        port.write(DATA, ord("x"))
    port.write(IER, 0)
    assert port.levels[-1] == 0
    # Linux's test for UART_BUG_THRE: enabling it again must raise it again
    port.write(IER, 2)
    assert port.read(IIR, 1) & 0x0F == 2


def test_enabling_an_enabled_interrupt_raises_nothing() -> None:
    port = Port()
    port.write(IER, 2)
    port.read(IIR, 1)
    port.write(IER, 3)
    assert port.read(IIR, 1) & 0x0F == 1


def test_receive_interrupt_has_priority_until_read() -> None:
    port = Port()
    port.write(IER, 3)
    port.uart.receive(b"ab")
    assert port.read(IIR, 1) & 0x0F == 4
    assert port.read(IIR, 1) & 0x0F == 4
    assert [port.read(DATA, 1), port.read(DATA, 1)] == list(b"ab")
    assert port.levels == [1]  # the line stays up: the transmit interrupt is still pending
    assert port.read(IIR, 1) & 0x0F == 2
    assert port.levels == [1, 0]
    assert (port.read(LSR, 1) & 1, port.read(DATA, 1)) == (0, 0)


def test_input_without_an_interrupt_waits_for_a_poll() -> None:
    port = Port()
    port.uart.receive(b"x")
    assert port.levels == []
    assert port.read(LSR, 1) & 1
    port.write(IER, 1)
    assert port.levels == [1]


def test_wide_write_sends_one_byte() -> None:
    port = Port()
    port.write(DATA, 0x4241, 2)
    assert port.out == b"A"
