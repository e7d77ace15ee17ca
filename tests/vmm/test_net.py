"""virtio-net: MAC addresses, and frames through a real passt."""

from __future__ import annotations

import shutil
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from harness.agent.passt import PasstProcess
from harness.kvm.errors import ConfigError, GuestFault, MachineEnd
from harness.kvm.vm import eventfd, signal_eventfd
from harness.vmm.config import NetworkConfig
from harness.vmm.devices.virtio.net import HEADER, mac_bytes
from harness.vmm.devices.virtio.passt import Passt
from harness.vmm.devices.virtio.queue import Ring
from harness.vmm.devices.virtio.transport import ActiveQueue
from harness.vmm.memory import Memory
from tests.waiting import TIMEOUT, wait_until

MAC, ADDRESS, GATEWAY = "02:00:0a:02:00:02", "10.2.0.2", "10.2.0.1"
NETWORK = NetworkConfig(MAC, address=f"{ADDRESS}/24", gateway=GATEWAY)
RECEIVE, TRANSMIT = Ring(8, 0x1000, 0x2000, 0x3000), Ring(8, 0x4000, 0x5000, 0x6000)
BUFFERS, SENT, ROOM = 0x1_0000, 0x2_0000, 0x800
ARP = struct.pack("!HHBBH", 1, 0x800, 6, 4, 1)


def test_mac_addresses_are_parsed() -> None:
    assert mac_bytes("02:00:0A:02:00:fe") == bytes.fromhex("02000a0200fe")
    for wrong in ("", "02:00", "01:00:00:00:00:01", "02-00-00-00-00-01", "02:00:00:00:00:0g"):
        with pytest.raises(ConfigError, match="is not a unicast MAC address"):
            mac_bytes(wrong)


class Driver:
    """A driver of a passt device: eight receive buffers, one transmit buffer."""

    def __init__(self, room: int = ROOM) -> None:
        self.memory = Memory(1 << 20)
        self.ends: list[BaseException] = []
        self.passt = PasstProcess(NETWORK)
        self.device = Passt(MAC, self.passt, self.ends.append)
        for at in range(RECEIVE.size):
            entry = struct.pack("<QIHH", BUFFERS + ROOM * at, room, 2, 0)
            self.memory.write(RECEIVE.descriptors + 16 * at, entry)
        heads = struct.pack("<HH8H", 0, 8, *range(8))
        self.memory.write(RECEIVE.available, heads)
        self.kicks = [eventfd(nonblocking=False), eventfd(nonblocking=False)]
        self.sent = 0

    def start(self) -> None:
        queues = [
            ActiveQueue(number, ring, kick, -1)
            for number, (ring, kick) in enumerate(zip((RECEIVE, TRANSMIT), self.kicks, strict=True))
        ]
        self.device.start(self.memory, queues, self.device.features)

    def send(self, frame: bytes, header: int = HEADER) -> None:
        self.memory.write(SENT, bytes(header) + frame)
        entry = struct.pack("<QIHH", SENT, header + len(frame), 0, 0)
        self.memory.write(TRANSMIT.descriptors, entry)
        self.sent += 1
        self.memory.write(TRANSMIT.available, struct.pack("<HH", 0, self.sent))
        signal_eventfd(self.kicks[1])

    def received(self) -> list[bytes]:
        """The received frames, without their headers."""
        _, count = struct.unpack_from("<HH", self.memory.view(RECEIVE.used, 4))
        frames = []
        for at in range(count):
            head, size = struct.unpack_from("<II", self.memory.view(RECEIVE.used + 4 + 8 * at, 8))
            whole = bytes(self.memory.view(BUFFERS + ROOM * head, size))
            assert whole[:HEADER] == bytes(10) + b"\x01\0"
            frames.append(whole[HEADER:])
        return frames

    def ask_for_the_gateway(self) -> None:
        mac = mac_bytes(MAC)
        arp_addresses = mac + socket.inet_aton(ADDRESS) + bytes(6) + socket.inet_aton(GATEWAY)
        self.send(b"\xff" * 6 + mac + b"\x08\x06" + ARP + arp_addresses)

    def fault(self) -> BaseException:
        """What ended the device."""
        assert wait_until(lambda: self.ends)
        return self.ends[0]

    def close(self) -> None:
        self.device.stop()
        with suppress(OSError):
            self.device._socket.shutdown(socket.SHUT_RDWR)
        assert self.passt.process.wait(TIMEOUT) is not None


@pytest.fixture
def driver() -> Iterator[Driver]:
    if not shutil.which("passt"):
        pytest.skip("no passt")
    new_driver = Driver()
    yield new_driver
    new_driver.close()


def has_a_route() -> bool:
    """Whether this machine has a default route, which passt needs."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return True
    return False


routed = pytest.mark.skipif(not has_a_route(), reason="passt needs a default route")


@routed
def test_passt_answers_arp_for_the_gateway(driver: Driver) -> None:
    driver.start()
    driver.ask_for_the_gateway()
    assert wait_until(driver.received), driver.ends
    (frame,) = driver.received()
    assert frame[:6] == mac_bytes(MAC)
    assert frame[12:14] == b"\x08\x06"
    assert socket.inet_aton(GATEWAY) in frame
    assert driver.device.stop() == {0: 1, 1: 1}


@routed
def test_frames_during_a_stop_are_dropped(driver: Driver) -> None:
    driver.start()
    driver.device.stop()
    before = bytes(driver.memory.view(0, 0x8000))
    driver.device._deliver(bytes(60))
    assert bytes(driver.memory.view(0, 0x8000)) == before
    driver.start()
    driver.device._deliver(bytes(60))
    assert driver.received() == [bytes(60)]


@routed
def test_frames_without_a_buffer_or_too_long_are_dropped(driver: Driver) -> None:
    driver.start()
    driver.device._deliver(bytes(1515))
    for number in range(12):
        driver.device._deliver(bytes([number]) * 1514)
    assert driver.received() == [bytes([number]) * 1514 for number in range(8)]


@routed
@pytest.mark.parametrize(("size", "header"), [(0, HEADER), (1515, HEADER), (0, 4)])
def test_malformed_frame_raises_guest_fault(driver: Driver, size: int, header: int) -> None:
    driver.start()
    driver.send(bytes(size), header)
    fault = driver.fault()
    assert isinstance(fault, GuestFault)
    assert f"a frame of {size + header - HEADER} bytes" in str(fault)


@routed
def test_small_receive_buffer_raises_guest_fault(driver: Driver) -> None:
    small = Driver(room=64)
    small.start()
    with pytest.raises(GuestFault, match="too small"):
        small.device._deliver(bytes(60))
    small.close()


@routed
def test_end_of_passt_ends_the_machine(driver: Driver) -> None:
    driver.passt.process.kill()
    end = driver.fault()
    assert isinstance(end, MachineEnd)
    assert end.reason == "vmm-error"
    assert "passt ended" in end.detail


def test_missing_passt_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    threads = threading.active_count()
    with pytest.raises(ConfigError, match="passt: No such file") as caught:
        PasstProcess(NETWORK)
    assert caught.value.hint == "install passt"
    assert threading.active_count() == threads
