"""virtio-console: output as it comes, input as far as there is room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.kvm.errors import GuestFault
from harness.vmm.devices.virtio.console import VirtioConsole
from harness.vmm.memory import Memory
from tests.vmm.driver import WRITE, Started
from tests.waiting import wait_until

MEMORY = Memory(4 << 20)
DATA = 0x200000
RECEIVE, TRANSMIT = 0, 1


class Port:
    """A started console and what came out of it."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.console = VirtioConsole(self.out.extend, lambda error: None)
        self.started = Started(self.console, MEMORY, 2)

    def offer(self, number: int, *descriptors: tuple[int, int, int]) -> None:
        self.started.drivers[number].offer(list(descriptors))
        self.started.kick(number)


@pytest.fixture
def port() -> Iterator[Port]:
    made = Port()
    yield made
    made.started.close()


def test_output_of_several_buffers_in_their_order(port: Port) -> None:
    MEMORY.write(DATA, b"hello, world\n")
    port.offer(TRANSMIT, (DATA, 5, 0), (DATA, 0, 0), (DATA + 5, 8, 0))
    port.started.wait(TRANSMIT)
    assert port.out == b"hello, world\n"
    assert port.started.drivers[TRANSMIT].used == [0]


def test_input_waits_for_room_and_then_fills_it(port: Port) -> None:
    port.console.receive(b"hello, ")
    port.console.receive(b"world\n")
    assert port.started.drivers[RECEIVE].used == []
    port.offer(RECEIVE, (DATA, 2, WRITE), (DATA + 2, 3, WRITE))
    port.started.wait(RECEIVE)
    port.offer(RECEIVE, (DATA + 5, 100, WRITE))
    port.started.wait(RECEIVE)
    assert port.started.drivers[RECEIVE].used == [5, 8]
    assert bytes(MEMORY.view(DATA, 14)) == b"hello, world\n\0"


def test_room_that_waits_is_filled_at_once(port: Port) -> None:
    port.offer(RECEIVE, (DATA, 100, WRITE))
    assert port.started.drivers[RECEIVE].used == []
    port.console.receive(b"x")
    port.started.wait(RECEIVE)
    assert port.started.drivers[RECEIVE].used == [1]
    assert port.console.counters() == {"console_requests": 1}


def test_input_that_nobody_reads_is_refused_in_the_end(port: Port) -> None:
    port.console.receive(b"x" * 65_536)
    with pytest.raises(ValueError, match="does not read"):
        port.console.receive(b"x")


def test_a_buffer_without_room_takes_nothing(port: Port) -> None:
    port.console.receive(b"x")
    port.offer(RECEIVE, (DATA, 0, WRITE))
    port.started.wait(RECEIVE)
    port.offer(RECEIVE, (DATA, 1, WRITE))
    port.started.wait(RECEIVE)
    assert port.started.drivers[RECEIVE].used == [0, 1]


def test_too_long_a_request_ends_the_guest(port: Port) -> None:
    port.offer(TRANSMIT, (DATA, 1 << 20, 0), (DATA, 1, 0))
    assert wait_until(lambda: port.started.fail)
    assert isinstance(port.started.fail[0], GuestFault)
    assert port.out == b""


def test_a_malformed_ring_found_while_typing_ends_the_guest(port: Port) -> None:
    MEMORY.write(port.started.drivers[RECEIVE].ring.available + 2, b"\xff\x7f")
    port.console.receive(b"x")
    assert "requests in 8 entries" in str(port.started.fail[0])


def test_a_stopped_console_keeps_what_is_typed(port: Port) -> None:
    port.started.drivers[RECEIVE].offer([(DATA, 100, WRITE)])
    bases = port.console.stop()
    port.console.receive(b"late\n")
    assert port.started.drivers[RECEIVE].used == []
    port.console.start(MEMORY, port.started.queues, 0)
    port.started.wait(RECEIVE)
    assert (bases, port.started.drivers[RECEIVE].used) == ({0: 0, 1: 0}, [5])
