"""The driver side of one virtqueue, for tests without a guest."""

from __future__ import annotations

import os
import struct

from harness.kvm.vm import eventfd, signal_eventfd
from harness.vmm.devices.virtio.queue import Queue, Ring
from harness.vmm.devices.virtio.transport import ActiveQueue
from harness.vmm.devices.virtio.userspace import UserspaceDevice
from harness.vmm.memory import Memory
from tests.vmm.fakes import RING

NEXT, WRITE, INDIRECT = 1, 2, 4

Descriptor = tuple[int, int, int]  # address, length, flags


class Driver:
    """A ring of 8 entries in guest memory."""

    def __init__(self, memory: Memory, ring: Ring = RING) -> None:
        self.memory = memory
        self.ring = ring
        self.index = 0
        for address, length in zip(ring[1:], ring.lengths(), strict=True):
            memory.view(address, length)[:] = bytes(length)

    def offer(self, descriptors: list[Descriptor], table: int = 0) -> None:
        """Post a request. table: the GPA of an indirect table for its descriptors, 0 for none."""
        start = table or self.ring.descriptors
        for at, (address, length, flags) in enumerate(descriptors):
            more = NEXT if at + 1 < len(descriptors) else 0
            entry = struct.pack("<QIHH", address, length, flags | more, at + 1 if more else 0)
            self.memory.write(start + 16 * at, entry)
        if table:
            self.offer([(table, 16 * len(descriptors), INDIRECT)])
            return
        self.index += 1
        entries = struct.pack("<HH8H", 0, self.index & 0xFFFF, *(0,) * 8)
        self.memory.write(self.ring.available, entries)

    @property
    def used(self) -> list[int]:
        """The bytes written to each of the last 8 completed requests."""
        words = struct.unpack("<HH", self.memory.view(self.ring.used, 4))
        last = range(max(0, words[1] - self.ring.size), words[1])
        elements = (self.ring.used + 4 + 8 * (at % self.ring.size) for at in last)
        return [struct.unpack("<II", self.memory.view(at, 8))[1] for at in elements]


def serve(device: UserspaceDevice, queue: Queue, number: int = 0) -> int:
    """Handle the posted request instead of the device's thread. Returns the bytes written."""
    (chain,) = queue.pop()
    written = device._handle_request(number, chain)
    queue.push(chain, written)
    return written


class RunningDevice:
    """A device with its running thread, its eventfds and its drivers.

    drivers: one for each of `count` queues. ends: what ended the device.
    """

    def __init__(
        self, device: UserspaceDevice, memory: Memory, count: int, features: int = 0
    ) -> None:
        self.device = device
        self.ends: list[BaseException] = []
        device._end_machine = self.ends.append
        rings = [Ring(8, *(at + 0x4000 * number for at in RING[1:])) for number in range(count)]
        self.drivers = [Driver(memory, ring) for ring in rings]
        self.queues = [
            ActiveQueue(number, ring, eventfd(nonblocking=False), eventfd(nonblocking=False))
            for number, ring in enumerate(rings)
        ]
        device.start(memory, self.queues, features)

    def kick(self, number: int) -> None:
        signal_eventfd(self.queues[number].kick)

    def wait(self, number: int) -> None:
        """Wait for the queue's interrupt."""
        assert os.read(self.queues[number].call, 8)

    def close(self) -> dict[int, int]:
        bases = self.device.stop()
        for queue in self.queues:
            os.close(queue.kick)
            os.close(queue.call)
        return bases
