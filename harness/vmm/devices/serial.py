"""A 16550A serial port at COM1 (National Semiconductor PC16550D): the guest's console.

KVM coalesces writes to the transmit register where it can. A console line then costs one exit per
FIFO, not two per character.
"""

from __future__ import annotations

from typing import Callable, ClassVar

PORT, IRQ = 0x3F8, 4

_DATA, _IER, _IIR_FCR, _LCR, _MCR, _LSR, _MSR, _SCRATCH = range(8)
_DLAB = 0x80
_IER_RECEIVE, _IER_TRANSMIT = 1, 2
_IIR_NONE, _IIR_TRANSMIT, _IIR_RECEIVE = 1, 2, 4
_IIR_FIFO = 0xC0
_LSR_READY, _LSR_EMPTY = 0x01, 0x60
_MCR_LOOP = 0x10
# Reserved bits read as 0: Linux takes a port whose IER keeps bit 6 for an XScale's.
_WRITABLE = {_IER: 0x0F, _MCR: 0x1F}
_MSR_CONNECTED = 0xB0  # carrier, data set ready, clear to send


class Serial:
    """The port. reads: how often the guest has read a register."""

    STATE: ClassVar = {
        **{"_registers": 0, "_divisor": 0, "_received": 1 << 20},
        **{"_fifo": 2, "_transmit_pending": 2, "_level": 2},
    }

    def __init__(self, output: Callable[[int], None], set_irq: Callable[[int], None]) -> None:
        """output: called with each byte. set_irq: called with the interrupt line's new level."""
        self._output = output
        self._set_irq = set_irq
        self._registers = bytearray(8)
        self._divisor = bytearray(b"\x01\0")
        self._fifo = False
        self._transmit_pending = False
        self._received = bytearray()
        self._level = 0
        self.reads = 0

    def receive(self, data: bytes) -> None:
        """Add input for the guest. Call with the buses' lock held."""
        self._received += data
        self._update()

    def read(self, offset: int, size: int) -> int:
        self.reads += 1
        if self._registers[_LCR] & _DLAB and offset < 2:
            return self._divisor[offset]
        if offset == _DATA:
            value = self._received.pop(0) if self._received else 0
            self._update()
            return value
        if offset == _IIR_FCR:
            return self._identify()
        if offset == _LSR:
            return _LSR_EMPTY | (_LSR_READY if self._received else 0)
        if offset == _MSR:
            return self._modem_status()
        return self._registers[offset]

    def write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        if self._registers[_LCR] & _DLAB and offset < 2:
            self._divisor[offset] = value
            return
        if offset == _DATA:
            if not self._registers[_MCR] & _MCR_LOOP:
                self._output(value)
            self._transmit_pending = True
        elif offset == _IIR_FCR:
            self._fifo = bool(value & 1)
        elif offset not in (_LSR, _MSR):
            value &= _WRITABLE.get(offset, 0xFF)
            enabled = value & ~self._registers[_IER] & _IER_TRANSMIT
            if offset == _IER and enabled:
                self._transmit_pending = True  # the transmit register is always empty
            self._registers[offset] = value
        self._update()

    def _identify(self) -> int:
        fifo = _IIR_FIFO if self._fifo else 0
        enabled = self._registers[_IER]
        if self._received and enabled & _IER_RECEIVE:
            return fifo | _IIR_RECEIVE
        if self._transmit_pending and enabled & _IER_TRANSMIT:
            self._transmit_pending = False  # reading IIR acknowledges the interrupt
            self._update()
            return fifo | _IIR_TRANSMIT
        return fifo | _IIR_NONE

    def _modem_status(self) -> int:
        control = self._registers[_MCR]
        if not control & _MCR_LOOP:
            return _MSR_CONNECTED
        # loopback: DTR to DSR, RTS to CTS, OUT1 to RI, OUT2 to DCD
        pairs = ((0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80))
        return sum(status for bit, status in pairs if control & bit)

    def _update(self) -> None:
        enabled = self._registers[_IER]
        level = int(
            bool(self._received and enabled & _IER_RECEIVE)
            or bool(self._transmit_pending and enabled & _IER_TRANSMIT)
        )
        if level != self._level:
            self._level = level
            self._set_irq(level)
