"""virtio-console (virtio 1.2, 5.3) with one port, the guest's hvc0.

A line of output is one request. The serial port needs several exits for it.
"""

from __future__ import annotations

from typing import Callable

from harness.kvm.errors import GuestFault

from .queue import Chain
from .userspace import UserspaceDevice

_RECEIVE, _TRANSMIT = 0, 1
_OUTPUT_LIMIT = 1 << 20  # bytes of one request; Linux sends a page at most
_INPUT_LIMIT = 1 << 16  # bytes of input that the guest has not read yet


class VirtioConsole(UserspaceDevice):
    """The device and its port."""

    name = "virtio-console"
    device_type = 3
    class_code = 0x078000
    queues = 2
    required_queues = (_RECEIVE, _TRANSMIT)
    config = bytes(12)  # its fields belong to features not offered

    def __init__(
        self, output: Callable[[bytes], None], end_machine: Callable[[BaseException], None]
    ) -> None:
        """output: called with the bytes that the guest writes. end_machine: called with what ends
        the machine."""
        super().__init__(end_machine)
        self._output = output
        self._input = bytearray()

    def counters(self) -> dict[str, int]:
        return {"console_requests": self.requests}

    def receive(self, data: bytes) -> None:
        """Add input for the guest. Raises ValueError if it does not read its input."""
        with self._lock:
            if len(self._input) + len(data) > _INPUT_LIMIT:
                raise ValueError("the guest does not read its console")
            self._input += data
            try:
                self._deliver()
            except GuestFault as error:
                self._end_machine(error)

    def _deliver(self) -> None:
        """Write input into the guest's buffers, as far as there are. Call with the lock held."""
        queue = self._queues.get(_RECEIVE)
        while queue and self._input and not self._stopping.is_set():
            chain = next(queue.pop(), None)
            if chain is None:
                return
            written = 0
            for view in chain.writable:
                piece = self._input[: len(view)]
                view[: len(piece)] = piece
                del self._input[: len(piece)]
                written += len(piece)
            self._complete(_RECEIVE, chain, written)

    def _on_kick(self, number: int) -> None:
        if number != _RECEIVE:
            super()._on_kick(number)
            return
        with self._lock:
            self._deliver()

    def _handle_request(self, number: int, chain: Chain) -> int:
        if sum(map(len, chain.readable)) > _OUTPUT_LIMIT:
            raise GuestFault("a virtio-console request of more than 1 MiB")
        for view in chain.readable:
            self._output(bytes(view))
        return 0
