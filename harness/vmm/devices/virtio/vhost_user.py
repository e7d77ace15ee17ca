"""The front end of vhost-user: a device whose queues another process handles.

Source: QEMU's docs/interop/vhost-user.rst. Guest memory and eventfds go over a unix socket once;
afterwards guest and back end communicate directly. The back end is not trusted: every answer is
checked and has a deadline.
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

TIMEOUT = 10.0  # seconds for an answer; the first one includes the back end's start

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
    """The back end disconnected, is late, refuses a request, or sends a malformed answer."""


class VhostUser:
    """A connection to a back end."""

    def __init__(self, connection: socket.socket) -> None:
        """Sends nothing. Call negotiate() when the back end should be running."""
        self._connection = connection
        self._has_reply_ack = False
        self._features = 0
        self._unused_call = eventfd()

    def negotiate(self) -> int:
        """Negotiate the protocol. Returns the device's features. Raises VhostUserError."""
        self._features = self._request_u64(_GET_FEATURES)
        if not self._features & _F_PROTOCOL_FEATURES:
            raise VhostUserError("it supports no protocol features")
        offered = self._request_u64(_GET_PROTOCOL_FEATURES)
        required = _F_REPLY_ACK | _F_CONFIG
        if offered & required != required:
            raise VhostUserError(f"it lacks protocol features: {offered:#x}, not {required:#x}")
        self._send_command(_SET_PROTOCOL_FEATURES, _U64.pack(required))
        self._has_reply_ack = True
        self._send_command(_SET_OWNER)
        return self._features & ~_F_PROTOCOL_FEATURES

    def read_config(self, size: int) -> bytes:
        """The first bytes of the device's configuration space."""
        query = _CONFIG.pack(0, size, 0) + bytes(size)
        return self._send_query(_GET_CONFIG, query, len(query))[_CONFIG.size :]

    def write_config(self, offset: int, data: bytes) -> None:
        """Write the device's configuration space."""
        self._send_command(_SET_CONFIG, _CONFIG.pack(offset, len(data), 0) + data)

    def set_features(self, features: int) -> None:
        """Set the features that the driver has accepted."""
        self._send_command(
            _SET_FEATURES, _U64.pack(features | self._features & _F_PROTOCOL_FEATURES)
        )

    def set_memory(self, memory: Memory) -> None:
        """Let the back end map guest memory, which must be a file (Memory(shared_file=...))."""
        table = MEMORY_HEADER.pack(len(memory.regions), 0)
        for region in memory.regions:
            table += MEMORY_REGION.pack(region.gpa, region.size, region.hva, region.offset)
        self._send_command(_SET_MEM_TABLE, table, [region.fd for region in memory.regions])

    def set_queue(self, number: int, queue: ActiveQueue, memory: Memory) -> None:
        """Hand a ring to the back end, which starts to process it."""
        self._send_command(_SET_VRING_NUM, VRING_STATE.pack(number, queue.ring.size))
        self._send_command(_SET_VRING_BASE, VRING_STATE.pack(number, queue.base))
        self._send_command(_SET_VRING_ADDR, vring_address(number, queue.ring, memory))
        # A driver that polls has no call eventfd. The protocol allows that; libvhost-user panics.
        call = queue.call if queue.call >= 0 else self._unused_call
        self._send_command(_SET_VRING_CALL, _U64.pack(number), [call])
        self._send_command(_SET_VRING_KICK, _U64.pack(number), [queue.kick])
        self._send_command(_SET_VRING_ENABLE, VRING_STATE.pack(number, 1))

    def stop_queue(self, number: int) -> int:
        """Stop a ring. Returns the index at which it would continue."""
        query = VRING_STATE.pack(number, 0)
        answer = self._send_query(_GET_VRING_BASE, query, len(query))
        index, base = VRING_STATE.unpack(answer)
        if index != number or base > 0xFFFF:
            raise VhostUserError(f"it reports ring {index} at {base} when asked for ring {number}")
        return int(base)

    @property
    def disconnected(self) -> bool:
        """Whether the back end has closed the connection."""
        poll = select.poll()
        poll.register(self._connection, select.POLLRDHUP)
        return bool(poll.poll(0))

    # messages

    def _request_u64(self, request: int) -> int:
        return int(_U64.unpack(self._send_query(request, b"", _U64.size))[0])

    def _send_command(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        if not self._has_reply_ack:
            self._send(request, _VERSION, payload, fds)
            return
        self._send(request, _VERSION | _NEED_REPLY, payload, fds)
        answer = self._receive(request)
        if answer != _U64.pack(0):
            raise VhostUserError(f"it refuses request {request}: {answer[:8].hex()}")

    def _send_query(self, request: int, payload: bytes, size: int) -> bytes:
        """Send a request that has an answer of `size` bytes. Returns the answer."""
        self._send(request, _VERSION, payload, ())
        answer = self._receive(request)
        if len(answer) != size:
            lengths = f"{len(answer)} bytes, not {size}"
            raise VhostUserError(f"its answer to request {request} has {lengths}")
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
            raise VhostUserError(f"it answers request {answered}, flags {flags:#x}, not {request}")
        if size > 4096:
            raise VhostUserError(f"its answer to request {request} has {size} bytes")
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
                raise VhostUserError("it closed the connection")
            data += piece
        return data
