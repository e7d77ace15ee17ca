"""virtio-console: output, and input as far as the driver posts buffers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.kvm.errors import GuestFault
from harness.vmm.devices.virtio.console import VirtioConsole
from harness.vmm.memory import Memory
from tests.vmm.driver import WRITE, RunningDevice
from tests.waiting import wait_until

MEMORY = Memory(4 << 20)
DATA = 0x200000
RECEIVE, TRANSMIT = 0, 1


class Port:
    """A running console and its output."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.console = VirtioConsole(self.out.extend, lambda error: None)
        self.running = RunningDevice(self.console, MEMORY, 2)

    def offer(self, number: int, *descriptors: tuple[int, int, int]) -> None:
        self.running.drivers[number].offer(list(descriptors))
        self.running.kick(number)


@pytest.fixture
def port() -> Iterator[Port]:
    new_port = Port()
    yield new_port
    new_port.running.close()


def test_output_of_several_buffers_keeps_their_order(port: Port) -> None:
    MEMORY.write(DATA, b"hello, world\n")
    port.offer(TRANSMIT, (DATA, 5, 0), (DATA, 0, 0), (DATA + 5, 8, 0))
    port.running.wait(TRANSMIT)
    assert port.out == b"hello, world\n"
    assert port.running.drivers[TRANSMIT].used == [0]


def test_input_waits_for_buffers(port: Port) -> None:
    port.console.receive(b"hello, ")
    port.console.receive(b"world\n")
    assert port.running.drivers[RECEIVE].used == []
    port.offer(RECEIVE, (DATA, 2, WRITE), (DATA + 2, 3, WRITE))
    port.running.wait(RECEIVE)
    port.offer(RECEIVE, (DATA + 5, 100, WRITE))
    port.running.wait(RECEIVE)
    assert port.running.drivers[RECEIVE].used == [5, 8]
    assert bytes(MEMORY.view(DATA, 14)) == b"hello, world\n\0"


def test_input_fills_a_waiting_buffer_at_once(port: Port) -> None:
    port.offer(RECEIVE, (DATA, 100, WRITE))
    assert port.running.drivers[RECEIVE].used == []
    port.console.receive(b"x")
    port.running.wait(RECEIVE)
    assert port.running.drivers[RECEIVE].used == [1]
    assert port.console.counters() == {"console_requests": 1}


def test_unread_input_is_limited(port: Port) -> None:
    port.console.receive(b"x" * 65_536)
    with pytest.raises(ValueError, match="does not read"):
        port.console.receive(b"x")


def test_empty_buffer_takes_no_input(port: Port) -> None:
    port.console.receive(b"x")
    port.offer(RECEIVE, (DATA, 0, WRITE))
    port.running.wait(RECEIVE)
    port.offer(RECEIVE, (DATA, 1, WRITE))
    port.running.wait(RECEIVE)
    assert port.running.drivers[RECEIVE].used == [0, 1]


def test_oversized_request_raises_guest_fault(port: Port) -> None:
    port.offer(TRANSMIT, (DATA, 1 << 20, 0), (DATA, 1, 0))
    assert wait_until(lambda: port.running.ends)
    assert isinstance(port.running.ends[0], GuestFault)
    assert port.out == b""


def test_malformed_ring_during_input_ends_the_guest(port: Port) -> None:
    MEMORY.write(port.running.drivers[RECEIVE].ring.available + 2, b"\xff\x7f")
    port.console.receive(b"x")
    assert "requests in 8 entries" in str(port.running.ends[0])


def test_stopped_console_keeps_input(port: Port) -> None:
    port.running.drivers[RECEIVE].offer([(DATA, 100, WRITE)])
    bases = port.console.stop()
    port.console.receive(b"late\n")
    assert port.running.drivers[RECEIVE].used == []
    port.console.start(MEMORY, port.running.queues, 0)
    port.running.wait(RECEIVE)
    assert (bases, port.running.drivers[RECEIVE].used) == ({0: 0, 1: 0}, [5])
