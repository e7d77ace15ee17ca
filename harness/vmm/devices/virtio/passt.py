"""virtio-net (virtio 1.2, 5.1) by passt: user-mode sockets on the host's network, without rights.

passt exchanges frames, each preceded by its length: 4 bytes, big-endian (QEMU's stream netdev). The
guest's gateway is the host's loopback. It is not fast: this process copies every frame.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Callable, Protocol

from harness.kvm.errors import GuestFault, MachineEnd

from .net import F_MAC, HEADER, mac_bytes
from .queue import Chain
from .userspace import UserspaceDevice

_RECEIVE, _TRANSMIT = 0, 1
_MAX_FRAME = 1514
_ONE_BUFFER = b"\x01\0".rjust(HEADER, b"\0")  # num_buffers is 1; no offload


class PasstConnection(Protocol):
    """A passt process, which ends when its socket closes."""

    socket: socket.socket

    def exit_report(self) -> str:
        """Waits until passt has ended. Returns its output."""


class Passt(UserspaceDevice):
    """A network device whose frames go to passt."""

    name = "virtio-net by passt"
    device_type = 1
    class_code = 0x020000
    queues = 2
    required_queues = (_RECEIVE, _TRANSMIT)
    features = UserspaceDevice.features | F_MAC

    def __init__(
        self, mac: str, passt: PasstConnection, end_machine: Callable[[BaseException], None]
    ) -> None:
        """end_machine: called with what ends the machine: passt's end, too. Raises ConfigError."""
        super().__init__(end_machine)
        self.config = mac_bytes(mac)
        self._passt = passt
        self._socket = passt.socket
        threading.Thread(target=self._listen, name="passt", daemon=True).start()

    def _on_kick(self, number: int) -> None:
        if number == _TRANSMIT:  # receive buffers stay in the queue until a frame arrives
            super()._on_kick(number)

    def _handle_request(self, number: int, chain: Chain) -> int:
        size = sum(map(len, chain.readable)) - HEADER
        if not 0 < size <= _MAX_FRAME:
            raise GuestFault(f"virtio-net: the guest sent a frame of {size} bytes")
        frame = b"".join(chain.readable)[HEADER:]
        with contextlib.suppress(OSError):  # passt has ended: _listen() reports it
            self._socket.sendall(size.to_bytes(4, "big") + frame)
        return 0

    def _listen(self) -> None:
        try:
            with contextlib.suppress(OSError), self._socket.makefile("rb") as stream:
                while head := stream.read(4):
                    self._deliver(stream.read(int.from_bytes(head, "big")))
            raise MachineEnd("vmm-error", f"passt ended: {self._passt.exit_report()}")
        except BaseException as error:
            self._end_machine(error)

    def _deliver(self, frame: bytes) -> None:
        """Write a frame into a receive buffer. It is dropped if there is no buffer, or if it is too
        long."""
        with self._lock:
            queue = self._queues.get(_RECEIVE)
            chain = next(queue.pop(), None) if queue and len(frame) <= _MAX_FRAME else None
            if chain is None:
                return
            rest = _ONE_BUFFER + frame
            for view in chain.writable:
                piece, rest = rest[: len(view)], rest[len(view) :]
                view[: len(piece)] = piece
            if rest:
                raise GuestFault("a receive buffer of virtio-net is too small for a frame")
            self._complete(_RECEIVE, chain, HEADER + len(frame))

    def stop(self) -> dict[int, int]:
        super().stop()
        with self._lock:
            stopped, self._queues = self._queues, {}
        return {number: queue.base for number, queue in stopped.items()}
