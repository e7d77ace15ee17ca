"""What a clone's vsock is waited for, and for how long."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.kvm.errors import MachineEnd
from harness.vmm import machine as module
from harness.vmm.devices.virtio.queue import Queue
from harness.vmm.devices.virtio.vsock import Vsock
from tests.vmm.guests import in_process

LONG = 60.0


def unanswered() -> Vsock:
    """One whose driver has not given back the event's buffer."""
    vsock = object.__new__(Vsock)
    vsock._event_buffers = 8
    vsock._events = cast(Queue, SimpleNamespace(pending=7))
    return vsock


def test_a_reset_is_waited_for_until_it_is_seen_or_the_machine_ends() -> None:
    vsock = unanswered()
    before = time.monotonic()
    vsock.wait_reset_acknowledged(0.05, lambda: True)
    assert time.monotonic() - before >= 0.05
    vsock.wait_reset_acknowledged(LONG, lambda: False)
    looks: list[int] = []

    def seen_at_the_third() -> bool:
        looks.append(1)
        if len(looks) == 3:
            vsock._events = cast(Queue, SimpleNamespace(pending=8))
        return True

    vsock.wait_reset_acknowledged(LONG, seen_at_the_third)
    assert len(looks) == 3
    vsock._events = None  # there is no driver
    vsock.wait_reset_acknowledged(LONG, lambda: True)
    assert time.monotonic() - before < LONG


def test_other_devices_follow_when_the_driver_does_not_answer(
    kvm_device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_VSOCK_HEAD_START", 0.05)
    happened: list[Any] = []
    forever = "1: hlt ; jmp 1b"
    with in_process(forever, tmp_path) as machine:
        machine.from_snapshot, machine.virtio.vsock = True, unanswered()
        others = machine.virtio.transports
        assert others
        monkeypatch.setattr(machine, "_resume_devices", lambda some: happened.append(list(some)))

        def started() -> None:
            happened.append("started")
            machine.end_machine(MachineEnd("stopped"))

        machine.run(lambda: happened.append("running"), started)
    assert happened == [[], "running", others, "started"]
