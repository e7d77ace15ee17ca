"""A virtio device whose queues are processed in this process: rare, or without a kernel backend.

Kicks arrive by ioeventfd and interrupts leave by irqfd, so neither causes an exit to user space.
"""

from __future__ import annotations

import os
import select
import threading
from typing import Callable

from harness.kvm.errors import GuestFault
from harness.kvm.vm import signal_eventfd

from ...memory import Memory
from .queue import Chain, Queue
from .transport import F_EVENT_INDEX, F_INDIRECT, ActiveQueue, Backend


class UserspaceDevice(Backend):
    """The base of such devices: one thread per device. A subclass defines `_handle_request`.

    required_queues: the queues that a driver must enable. requests: how many were completed. label:
    identifies the device among the guest's. faults: injected faults by request number:
    "lost-interrupt", "bad-used", and those that a subclass defines.
    """

    required_queues: tuple[int, ...] = (0,)
    features = F_INDIRECT | F_EVENT_INDEX

    def __init__(self, end_machine: Callable[[BaseException], None]) -> None:
        """end_machine: called with what ends the machine."""
        self._end_machine = end_machine
        self.requests = 0
        self.label = self.name
        self.faults: dict[int, str] = {}
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._started: dict[int, ActiveQueue] = {}
        self._queues: dict[int, Queue] = {}
        # for queues that another thread fills, with input from outside: it also checks _stopping
        self._lock = threading.Lock()

    def _handle_request(self, number: int, chain: Chain) -> int:
        """Handle one request of queue `number`. Returns the bytes written to the guest."""
        raise NotImplementedError

    def _on_kick(self, number: int) -> None:
        """Handle all requests of a queue, which the guest kicked or which was just started."""
        queue = self._queues[number]
        for chain in queue.pop():
            if self._stopping.is_set():
                return
            self._complete(number, chain, self._handle_request(number, chain))

    def _complete(self, number: int, chain: Chain, written: int) -> None:
        self.requests += 1
        fault = self.faults.pop(self.requests, "")
        if fault == "bad-used":
            chain = chain._replace(head=0xFFFF)  # beyond any queue's end
        call = self._started[number].call
        interrupt = self._queues[number].push(chain, written)
        if interrupt and call >= 0 and fault != "lost-interrupt":
            signal_eventfd(call)

    def start(self, memory: Memory, queues: list[ActiveQueue], features: int) -> None:
        self._started = {queue.number: queue for queue in queues}
        if not all(number in self._started for number in self.required_queues):
            noun = "queue" if len(self.required_queues) == 1 else "queues"
            raise GuestFault(f"{self.name} started without its {noun}")
        event_index = bool(features & F_EVENT_INDEX)
        self._queues = {
            queue.number: Queue(memory, queue.ring, event_index, queue.base) for queue in queues
        }
        self._stopping.clear()
        self._thread = threading.Thread(target=self._serve, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> dict[int, int]:
        if self._thread:
            self._stopping.set()
            signal_eventfd(next(iter(self._started.values())).kick)
            self._thread.join()
            self._thread = None
        with self._lock:  # no other thread uses a queue, now or later
            return {number: queue.base for number, queue in self._queues.items()}

    def _serve(self) -> None:
        try:
            kicks = {queue.kick: number for number, queue in self._started.items()}
            poll = select.poll()
            for fd in kicks:
                poll.register(fd, select.POLLIN)
            for number in kicks.values():
                self._on_kick(number)
            while not self._stopping.is_set():
                for fd, _ in poll.poll():
                    os.read(fd, 8)
                    if not self._stopping.is_set():
                        self._on_kick(kicks[fd])
        except BaseException as error:
            self._end_machine(error)
