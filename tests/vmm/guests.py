"""Machines for the tests: under a supervisor's process, or in this one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.hypervisors.base import End, Events
from harness.hypervisors.supervised import SupervisedMachine, Supervisor
from harness.vmm.control import Channel
from harness.vmm.devices.bus import Device
from harness.vmm.kvm.vcpu import KICK
from harness.vmm.machine import Config, Machine
from tests.vmm.payload import kernel
from tests.waiting import TIMEOUT, wait_until


class Guest(SimpleNamespace):
    """A machine with what it said."""

    machine: SupervisedMachine
    lines: list[str]
    ends: list[End]

    def end(self) -> End:
        """Its end, waited for."""
        wait_until(lambda: self.ends)
        (end,) = self.ends
        return end

    def wait_line(self, line: str) -> None:
        assert wait_until(lambda: line in self.lines), (self.lines, self.ends)


class Runner:
    """Starts guests that run assembly, or peers that are any program."""

    def __init__(self, supervisor: Supervisor, folder: Path) -> None:
        self._supervisor = supervisor
        self._folder = folder
        self._guests: list[Guest] = []

    def __call__(self, source: str, name: str = "guest", **arguments: Any) -> Guest:
        folder = self._folder / name
        folder.mkdir()
        wanted = {"kernel": kernel(source, folder), "memory": 64, "vsock": False, **arguments}
        return self.start("create", name, **wanted)

    def start(self, operation: str, name: str, **arguments: Any) -> Guest:
        guest = Guest(lines=[], ends=[])
        events = Events(
            lambda at, text: guest.lines.append(text), lambda stage, at: None, guest.ends.append
        )
        guest.machine = self._supervisor.start(operation, name, arguments, events, TIMEOUT)
        self._guests.append(guest)
        return guest

    def close(self) -> None:
        for guest in self._guests:
            guest.machine.stop()


@contextlib.contextmanager
def in_process(
    source: str, folder: Path, ports: Device | None = None, memory: Device | None = None
) -> Iterator[Machine]:
    """A machine of this process, not yet running. Its payload must end it by itself.

    ports: answers at ports 0xd00 to 0xd0f. memory: at 0xd0000000 to 0xd000000f.
    """
    ours, theirs = socket.socketpair()
    before = signal.getsignal(KICK)
    machine = Machine(Config(kernel(source, folder), memory=16, vsock=False), Channel("g", theirs))
    if ports:
        machine.buses.pio.add(0xD00, 16, ports)
    if memory:
        machine.buses.mmio.add(0xD000_0000, 16, memory)
    try:
        yield machine
    finally:
        ours.close()
        for vcpu in machine.vcpus:
            if vcpu.thread:
                vcpu.stop()
                vcpu.thread.join(TIMEOUT)
        signal.signal(KICK, before)
        for stats in machine._stats:
            stats.close()
        for fd in (*(vcpu.fd for vcpu in machine.vcpus), machine.vm.fd, machine.vm.kvm.fd):
            os.close(fd)
        theirs.close()
