"""A virtio device whose queues this process serves: for what is rare, or has no kernel's backend.

Kicks come by ioeventfd and answers go by irqfd, so a vCPU leaves the kernel for neither.
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
    """What such devices have in common: one thread a device. A subclass gives `_handle_request`.

    required_queues: the queues without which a driver cannot have meant to start it.
    requests: how many were served. label: which of the guest's devices it is. faults: requests
    that go wrong, by the number that they will have: "lost-interrupt", "bad-used", and what else
    the device itself knows.
    """

    required_queues: tuple[int, ...] = (0,)
    features = F_INDIRECT | F_EVENT_INDEX

    def __init__(self, end_machine: Callable[[BaseException], None]) -> None:
        """end_machine: gets what ends the machine."""
        self._end_machine = end_machine
        self.requests = 0
        self.label = self.name
        self.faults: dict[int, str] = {}
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._started: dict[int, ActiveQueue] = {}
        self._queues: dict[int, Queue] = {}
        # a queue may be filled by another thread than ours (what comes in from outside), which
        # takes this, and looks whether we are stopping
        self._lock = threading.Lock()

    def _handle_request(self, number: int, chain: Chain) -> int:
        """Serve one request of queue `number`; returns the bytes written to the guest."""
        raise NotImplementedError

    def _on_kick(self, number: int) -> None:
        """The guest kicked a queue (or it was just started): serve all there is."""
        queue = self._queues[number]
        for chain in queue.pop():
            if self._stopping.is_set():
                return
            self._complete(number, chain, self._handle_request(number, chain))

    def _complete(self, number: int, chain: Chain, written: int) -> None:
        self.requests += 1
        fault = self.faults.pop(self.requests, "")
        if fault == "bad-used":
            chain = chain._replace(head=0xFFFF)  # no queue is that long
        call = self._started[number].call
        wanted = self._queues[number].push(chain, written)
        if wanted and call >= 0 and fault != "lost-interrupt":
            signal_eventfd(call)

    def start(self, memory: Memory, queues: list[ActiveQueue], features: int) -> None:
        self._started = {queue.number: queue for queue in queues}
        if not all(number in self._started for number in self.required_queues):
            which = "queue" if len(self.required_queues) == 1 else "queues"
            raise GuestFault(f"{self.name} started without its {which}")
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
        with self._lock:  # nobody else is at a queue any more, nor comes to one
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
