"""The front end of vhost-user with a scripted back end, on a socket pair.

test_vhost_user_disk uses a real back end, qemu-storage-daemon.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from harness.vmm.devices.virtio import vhost_user
from harness.vmm.devices.virtio.queue import Ring
from harness.vmm.devices.virtio.transport import ActiveQueue
from harness.vmm.devices.virtio.vhost_user import VhostUser, VhostUserError
from harness.vmm.memory import Memory, create_memory_file
from tests.waiting import TIMEOUT

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
NUM, ADDR, BASE, GET_BASE, KICK, CALL = 8, 9, 10, 11, 12, 13
GET_PROTOCOL, SET_PROTOCOL, ENABLE, GET_CONFIG = 15, 16, 18, 24
REPLY, NEED_REPLY, VERSION = 4, 8, 1
FEATURES = 1 << 32 | 1 << 30 | 1 << 9
ANSWERS = {GET_FEATURES: FEATURES, GET_PROTOCOL: 1 << 9 | 1 << 3}

Answer = Callable[[int, bytes], bytes]


def message(request: int, payload: bytes, flags: int = VERSION | REPLY) -> bytes:
    return struct.pack("<III", request, flags, len(payload)) + payload


def correct(request: int, payload: bytes) -> bytes:
    """The answer of a correct back end."""
    if request in ANSWERS:
        return message(request, struct.pack("<Q", ANSWERS[request]))
    if request == GET_CONFIG:
        return message(request, payload[:12] + bytes(range(len(payload) - 12)))
    if request == GET_BASE:
        return message(request, payload[:4] + struct.pack("<I", 7))
    return message(request, bytes(8))


class BackEnd:
    """A back end that parses messages and answers by `answer`."""

    def __init__(self) -> None:
        ours, self.socket = socket.socketpair()
        self.front = VhostUser(ours)
        self.front_socket = ours
        self.answer: Answer = correct
        self.messages: list[tuple[int, bytes, int]] = []  # request, payload, descriptors
        self.fds: list[int] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                head, fds, _, _ = socket.recv_fds(self.socket, 12, 8)
            except ConnectionResetError:  # the front end did not read an answer
                return
            if len(head) < 12:
                return
            self.fds += fds
            request, flags, size = struct.unpack("<III", head)
            payload = self.socket.recv(size, socket.MSG_WAITALL) if size else b""
            self.messages.append((request, payload, len(fds)))
            if flags & NEED_REPLY or request in (GET_FEATURES, GET_PROTOCOL, GET_CONFIG, GET_BASE):
                self.socket.sendall(self.answer(request, payload))

    def close(self) -> None:
        self.front_socket.close()
        self._thread.join(TIMEOUT)
        self.socket.close()
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def back() -> Iterator[BackEnd]:
    back_end = BackEnd()
    yield back_end
    back_end.close()


def test_negotiation_requests_the_required_features(back: BackEnd) -> None:
    assert back.front.negotiate() == FEATURES & ~(1 << 30)
    assert [one[0] for one in back.messages] == [
        GET_FEATURES,
        GET_PROTOCOL,
        SET_PROTOCOL,
        SET_OWNER,
    ]
    assert back.messages[2][1] == struct.pack("<Q", 1 << 9 | 1 << 3)
    assert back.front.read_config(4) == bytes(range(4))


def test_memory_and_ring_are_sent(back: BackEnd) -> None:
    memory = Memory(4 << 20, shared_file=create_memory_file())
    memory.write(0x1234, b"seen by both")
    kick, call = os.pipe()
    back.front.negotiate()
    del back.messages[:]
    back.front.set_features(1 << 32)
    back.front.set_memory(memory)
    back.front.set_queue(0, ActiveQueue(0, Ring(8, 0x1000, 0x2000, 0x3000), kick, call, 5), memory)
    hva = memory.regions[0].hva
    assert back.messages == [
        (SET_FEATURES, struct.pack("<Q", 1 << 32 | 1 << 30), 0),
        (SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, 0, 4 << 20, hva, 0), 1),
        (NUM, struct.pack("<II", 0, 8), 0),
        (BASE, struct.pack("<II", 0, 5), 0),
        (ADDR, struct.pack("<IIQQQQ", 0, 0, hva + 0x1000, hva + 0x3000, hva + 0x2000, 0), 0),
        (CALL, struct.pack("<Q", 0), 1),
        (KICK, struct.pack("<Q", 0), 1),
        (ENABLE, struct.pack("<II", 0, 1), 0),
    ]
    assert os.pread(back.fds[0], 12, 0x1234) == b"seen by both"
    assert back.front.stop_queue(0) == 7
    for fd in (kick, call, memory.regions[0].fd):
        os.close(fd)


def test_queue_without_interrupt_has_a_call_eventfd(back: BackEnd) -> None:
    memory = Memory(1 << 20, shared_file=create_memory_file())
    kick, other = os.pipe()
    back.front.negotiate()
    queue = ActiveQueue(1, Ring(8, 0x1000, 0x2000, 0x3000), kick, -1)
    back.front.set_queue(1, queue, memory)
    assert (CALL, struct.pack("<Q", 1), 1) in back.messages
    for fd in (kick, other, memory.regions[0].fd):
        os.close(fd)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


@pytest.mark.parametrize(
    ("request_number", "answer", "what"),
    [
        (GET_FEATURES, message(GET_PROTOCOL, u64(FEATURES)), "it answers request 15"),
        (GET_FEATURES, message(GET_FEATURES, u64(FEATURES), VERSION), "flags 0x1"),
        (GET_FEATURES, message(GET_FEATURES, u64(FEATURES), REPLY | 2), "flags 0x6"),
        (GET_FEATURES, message(GET_FEATURES, bytes(4)), "answer to request 1 has 4 bytes, not 8"),
        (GET_FEATURES, struct.pack("<III", GET_FEATURES, 5, 1 << 31), "has 2147483648 bytes"),
        (GET_FEATURES, message(GET_FEATURES, u64(1 << 32)), "supports no protocol features"),
        (GET_PROTOCOL, message(GET_PROTOCOL, u64(1)), "lacks protocol features"),
        (SET_OWNER, message(SET_OWNER, u64(1)), "refuses request 3"),
        (SET_OWNER, message(SET_OWNER, b""), "refuses request 3"),
        (GET_CONFIG, message(GET_CONFIG, b""), "request 24 has 0 bytes, not 20"),
        (GET_CONFIG, message(GET_CONFIG, bytes(19)), "request 24 has 19 bytes, not 20"),
        (GET_BASE, message(GET_BASE, bytes(4)), "request 11 has 4 bytes, not 8"),
        (GET_BASE, message(GET_BASE, struct.pack("<II", 1, 0)), "reports ring 1"),
        (GET_BASE, message(GET_BASE, struct.pack("<II", 0, 1 << 16)), "ring 0 at 65536"),
    ],
)
def test_wrong_answer_is_an_error(
    back: BackEnd, request_number: int, answer: bytes, what: str
) -> None:
    back.answer = lambda request, payload: (
        answer if request == request_number else correct(request, payload)
    )

    def negotiate_and_request() -> None:
        back.front.negotiate()
        back.front.read_config(8)
        back.front.stop_queue(0)

    with pytest.raises(VhostUserError, match=what):
        negotiate_and_request()


def test_answer_in_pieces_is_assembled(back: BackEnd) -> None:
    def send_in_pieces(request: int, payload: bytes) -> bytes:
        *most, last = correct(request, payload)
        for byte in most:
            back.socket.sendall(bytes([byte]))
        return bytes([last])

    back.answer = send_in_pieces
    assert back.front.negotiate() == FEATURES & ~(1 << 30)


def test_missing_answer_times_out(back: BackEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhost_user, "TIMEOUT", 0.2)
    back.answer = lambda request, payload: b"\x01\0"  # an incomplete answer
    with pytest.raises(VhostUserError, match="no answer within"):
        back.front.negotiate()


def test_closed_connection_is_detected(back: BackEnd) -> None:
    assert not back.front.disconnected
    back.front.negotiate()
    back.socket.shutdown(socket.SHUT_RDWR)
    assert back.front.disconnected
    with pytest.raises(VhostUserError, match=r"closed the connection|Broken pipe"):
        back.front.read_config(8)
