"""A device whose queues another process serves: the front end of vhost-user.

Source: QEMU's docs/interop/vhost-user.rst. Guest memory and eventfds go over a unix socket, once;
from then on guest and back end deal with each other alone.

The back end is not trusted to be alive, quick or right: every answer is checked, and waited for
until a deadline.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Sequence

from harness.kvm.vm import eventfd

from ...memory import Memory
from .transport import ActiveQueue
from .vhost import MEMORY_HEADER, MEMORY_REGION, VRING_STATE, vring_address

TIMEOUT = 10.0  # seconds for an answer: the first waits for the back end's start, too

_GET_FEATURES, _SET_FEATURES, _SET_OWNER, _SET_MEM_TABLE = 1, 2, 3, 5
_SET_VRING_NUM, _SET_VRING_ADDR, _SET_VRING_BASE, _GET_VRING_BASE = 8, 9, 10, 11
_SET_VRING_KICK, _SET_VRING_CALL = 12, 13
_GET_PROTOCOL_FEATURES, _SET_PROTOCOL_FEATURES, _SET_VRING_ENABLE = 15, 16, 18
_GET_CONFIG, _SET_CONFIG = 24, 25

_HEADER = struct.Struct("<III")  # request, flags, size of what follows
_VERSION, _VERSION_MASK, _REPLY, _NEED_REPLY = 1, 3, 4, 8
_U64 = struct.Struct("<Q")
_CONFIG = struct.Struct("<III")  # offset, size, flags; then the bytes
_F_PROTOCOL_FEATURES = 1 << 30
_F_REPLY_ACK, _F_CONFIG = 1 << 3, 1 << 9


class VhostUserError(Exception):
    """The back end hung up, is late, refuses, or talks nonsense."""


class VhostUser:
    """A connection to a back end."""

    def __init__(self, connection: socket.socket) -> None:
        """Nothing is said yet: `negotiate` does, when the back end should be up."""
        self._connection = connection
        self._acknowledged = False
        self._features = 0
        self._nobody = eventfd()

    def negotiate(self) -> int:
        """Agree on the protocol; returns the device's features. Raises VhostUserError."""
        self._features = self._number(_GET_FEATURES)
        if not self._features & _F_PROTOCOL_FEATURES:
            raise VhostUserError("it knows no protocol features")
        offered = self._number(_GET_PROTOCOL_FEATURES)
        wanted = _F_REPLY_ACK | _F_CONFIG
        if offered & wanted != wanted:
            raise VhostUserError(f"it lacks protocol features: {offered:#x}, not {wanted:#x}")
        self._set(_SET_PROTOCOL_FEATURES, _U64.pack(wanted))
        self._acknowledged = True
        self._set(_SET_OWNER)
        return self._features & ~_F_PROTOCOL_FEATURES

    def read_config(self, size: int) -> bytes:
        """The first bytes of the device's configuration space."""
        asked = _CONFIG.pack(0, size, 0) + bytes(size)
        return self._ask(_GET_CONFIG, asked, len(asked))[_CONFIG.size :]

    def write_config(self, offset: int, data: bytes) -> None:
        self._set(_SET_CONFIG, _CONFIG.pack(offset, len(data), 0) + data)

    def set_features(self, features: int) -> None:
        self._set(_SET_FEATURES, _U64.pack(features | self._features & _F_PROTOCOL_FEATURES))

    def set_memory(self, memory: Memory) -> None:
        """Let the back end map guest memory, which must be in a file (Memory(shared_file=...))."""
        table = MEMORY_HEADER.pack(len(memory.regions), 0)
        for region in memory.regions:
            table += MEMORY_REGION.pack(region.gpa, region.size, region.hva, region.offset)
        self._set(_SET_MEM_TABLE, table, [region.fd for region in memory.regions])

    def set_queue(self, number: int, queue: ActiveQueue, memory: Memory) -> None:
        """Hand a ring to the back end, which serves it from now on."""
        self._set(_SET_VRING_NUM, VRING_STATE.pack(number, queue.ring.size))
        self._set(_SET_VRING_BASE, VRING_STATE.pack(number, queue.base))
        self._set(_SET_VRING_ADDR, vring_address(number, queue.ring, memory))
        # a driver that polls has none, which the protocol allows, but libvhost-user panics there
        call = queue.call if queue.call >= 0 else self._nobody
        self._set(_SET_VRING_CALL, _U64.pack(number), [call])
        self._set(_SET_VRING_KICK, _U64.pack(number), [queue.kick])
        self._set(_SET_VRING_ENABLE, VRING_STATE.pack(number, 1))

    def stop_queue(self, number: int) -> int:
        """Take a ring back; returns the index at which it would go on."""
        asked = VRING_STATE.pack(number, 0)
        index, base = VRING_STATE.unpack(self._ask(_GET_VRING_BASE, asked, len(asked)))
        if index != number or base > 0xFFFF:
            raise VhostUserError(f"ring {index} stands at {base}, where {number} was asked for")
        return int(base)

    @property
    def disconnected(self) -> bool:
        poll = select.poll()
        poll.register(self._connection, select.POLLRDHUP)
        return bool(poll.poll(0))

    # messages

    def _number(self, request: int) -> int:
        return int(_U64.unpack(self._ask(request, b"", _U64.size))[0])

    def _set(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        if not self._acknowledged:
            self._send(request, _VERSION, payload, fds)
            return
        self._send(request, _VERSION | _NEED_REPLY, payload, fds)
        answer = self._receive(request)
        if answer != _U64.pack(0):
            raise VhostUserError(f"it refuses request {request}: {answer[:8].hex()}")

    def _ask(self, request: int, payload: bytes, size: int) -> bytes:
        """The answer, of `size` bytes."""
        self._send(request, _VERSION, payload, ())
        answer = self._receive(request)
        if len(answer) != size:
            got = f"an answer of {len(answer)} bytes, not {size},"
            raise VhostUserError(f"{got} to request {request}")
        return answer

    def _send(self, request: int, flags: int, payload: bytes, fds: Sequence[int]) -> None:
        message = _HEADER.pack(request, flags, len(payload)) + payload
        try:
            self._connection.settimeout(TIMEOUT)
            sent = socket.send_fds(self._connection, [message], list(fds))
            self._connection.sendall(message[sent:])
        except OSError as error:
            raise VhostUserError(f"request {request}: {error}") from error

    def _receive(self, request: int) -> bytes:
        deadline = time.monotonic() + TIMEOUT
        answered, flags, size = _HEADER.unpack(self._read(_HEADER.size, deadline))
        if answered != request or flags & (_VERSION_MASK | _REPLY) != _VERSION | _REPLY:
            raise VhostUserError(f"no answer to request {request}: {answered}, flags {flags:#x}")
        if size > 4096:
            raise VhostUserError(f"an answer of {size} bytes to request {request}")
        return self._read(size, deadline)

    def _read(self, size: int, deadline: float) -> bytes:
        data = b""
        while len(data) < size:
            try:
                self._connection.settimeout(max(deadline - time.monotonic(), 0.001))
                piece = self._connection.recv(size - len(data))
            except socket.timeout:
                raise VhostUserError(f"no answer within {TIMEOUT:g} s") from None
            except OSError as error:
                raise VhostUserError(str(error)) from error
            if not piece:
                raise VhostUserError("it hung up")
            data += piece
        return data
