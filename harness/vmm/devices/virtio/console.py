"""virtio-console (virtio 1.2, 5.3) with one port, the guest's hvc0: a line is a request, where the
serial port takes several exits."""

from __future__ import annotations

from typing import Callable

from harness.kvm.errors import GuestFault

from .queue import Chain
from .userspace import UserspaceDevice

_RECEIVE, _TRANSMIT = 0, 1
_OUTPUT_LIMIT = 1 << 20  # bytes a request; Linux's are of a page at most
_INPUT_LIMIT = 1 << 16  # bytes that wait for the guest to read them


class VirtioConsole(UserspaceDevice):
    """The port: bytes out to `output`, bytes in by `receive`."""

    name = "virtio-console"
    device_type = 3
    class_code = 0x078000
    queues = 2
    required_queues = (_RECEIVE, _TRANSMIT)
    config = bytes(12)  # for features not offered

    def __init__(
        self, output: Callable[[bytes], None], end_machine: Callable[[BaseException], None]
    ) -> None:
        super().__init__(end_machine)
        self._output = output
        self._waiting = bytearray()

    def counters(self) -> dict[str, int]:
        return {"console_requests": self.requests}

    def receive(self, data: bytes) -> None:
        """Type into the console. Raises ValueError when what was typed before was not read yet."""
        with self._lock:
            if len(self._waiting) + len(data) > _INPUT_LIMIT:
                raise ValueError("the guest does not read its console")
            self._waiting += data
            try:
                self._deliver()
            except GuestFault as error:
                self._end_machine(error)

    def _deliver(self) -> None:
        """Hand the guest what waits, as far as it has room. Call with the lock held."""
        queue = self._queues.get(_RECEIVE)
        while queue and self._waiting and not self._stopping.is_set():
            chain = next(queue.pop(), None)
            if chain is None:
                return
            written = 0
            for view in chain.writable:
                piece = self._waiting[: len(view)]
                view[: len(piece)] = piece
                del self._waiting[: len(piece)]
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
