"""Machines for the tests: in a guest's process, or in this process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from harness.agent.control import Channel
from harness.hypervisors.agent_client import AgentClient
from harness.hypervisors.base import End, Events
from harness.hypervisors.machines import BuiltInMachine, start_machine
from harness.vmm.config import Config
from harness.vmm.devices.bus import Device
from harness.vmm.machine import Machine
from harness.vmm.run_control import KICK_SIGNAL
from tests.vmm.payload import flat, kernel
from tests.waiting import TIMEOUT, wait_until

# a machine of 64 MiB without optional devices
MINIMAL: dict[str, Any] = {"memory": 64, "vsock": False, "rng": False, "balloon": False}


class Guest(SimpleNamespace):
    """A machine and its events."""

    machine: BuiltInMachine
    lines: list[str]
    ends: list[End]
    marks: dict[str, int]

    def end(self) -> End:
        """Wait for the machine's end."""
        wait_until(lambda: self.ends)
        assert len(self.ends) == 1, self.ends
        (end,) = self.ends
        return end

    def wait_line(self, line: str) -> None:
        assert wait_until(lambda: line in self.lines), (self.lines, self.ends)


class Runner:
    """Starts guests that run assembly, or any program in place of a VMM."""

    def __init__(self, supervisor: AgentClient, folder: Path) -> None:
        self._supervisor = supervisor
        self._folder = folder
        self._guests: list[Guest] = []

    def __call__(
        self,
        source: str,
        name: str = "guest",
        mode: str = "protected",
        pvh: bool = False,
        **arguments: Any,
    ) -> Guest:
        """Run `source` as a payload. pvh: as a kernel with a PVH entry."""
        folder = self._folder / name
        folder.mkdir()
        code = {"kernel": kernel(source, folder)} if pvh else flat(source, folder, mode)
        return self.start("create", name, **{**MINIMAL, **code, **arguments})

    def start(self, operation: str, name: str, **arguments: Any) -> Guest:
        guest = Guest(lines=[], ends=[], marks={})
        events = Events(
            lambda at, text: guest.lines.append(text), guest.marks.__setitem__, guest.ends.append
        )
        machine = start_machine(
            self._supervisor, operation, name, arguments, events, timeout=TIMEOUT
        )
        guest.machine = cast(BuiltInMachine, machine)
        self._guests.append(guest)
        return guest

    def close(self) -> None:
        for guest in self._guests:
            guest.machine.stop()


@contextlib.contextmanager
def in_process(
    source: str,
    folder: Path,
    ports: Device | None = None,
    memory: Device | None = None,
    pvh: bool = False,
) -> Iterator[Machine]:
    """A machine in this process that does not run yet. Its payload must end it.

    pvh: `source` is a kernel with a PVH entry, not a payload.
    ports: a device at ports 0xd00 to 0xd0f. memory: a device at 0xd0000000 to 0xd000000f.
    """
    ours, theirs = socket.socketpair()
    before = signal.getsignal(KICK_SIGNAL)
    code = {"kernel": kernel(source, folder)} if pvh else flat(source, folder)
    config = Config.parse({**code, "memory": 16, "vsock": False})
    machine = Machine(config, Channel("g", theirs).event)
    if ports:
        machine.buses.pio.add(0xD00, 16, ports)
    if memory:
        machine.buses.mmio.add(0xD000_0000, 16, memory)
    try:
        yield machine
    finally:
        ours.close()
        for vcpu in machine.vcpus:
            if vcpu.run_control.thread:
                vcpu.run_control.stop()
                vcpu.run_control.thread.join(TIMEOUT)
        signal.signal(KICK_SIGNAL, before)
        for stats in machine._statistics.binary_stats:
            stats.close()
        for fd in (*(vcpu.fd for vcpu in machine.vcpus), machine.vm.fd, machine.vm.kvm.fd):
            os.close(fd)
        theirs.close()
