"""A clone waits for its vsock driver before other devices resume."""

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


def vsock_with_pending_reset() -> Vsock:
    """A vsock whose driver has not returned the reset event's buffer."""
    vsock = object.__new__(Vsock)
    vsock._event_buffers = 8
    vsock._events = cast(Queue, SimpleNamespace(pending=7))
    return vsock


def test_wait_ends_by_acknowledgement_timeout_or_machine_end() -> None:
    vsock = vsock_with_pending_reset()
    before = time.monotonic()
    vsock.wait_reset_acknowledged(0.05, lambda: True)
    assert time.monotonic() - before >= 0.05
    vsock.wait_reset_acknowledged(LONG, lambda: False)
    calls: list[int] = []

    def acknowledge_at_the_third_call() -> bool:
        calls.append(1)
        if len(calls) == 3:
            vsock._events = cast(Queue, SimpleNamespace(pending=8))
        return True

    vsock.wait_reset_acknowledged(LONG, acknowledge_at_the_third_call)
    assert len(calls) == 3
    vsock._events = None  # no driver
    vsock.wait_reset_acknowledged(LONG, lambda: True)
    assert time.monotonic() - before < LONG


def test_other_devices_resume_without_an_acknowledgement(
    kvm_device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_VSOCK_HEAD_START", 0.05)
    happened: list[Any] = []
    forever = "1: hlt ; jmp 1b"
    with in_process(forever, tmp_path) as machine:
        machine.from_snapshot, machine.virtio.vsock = True, vsock_with_pending_reset()
        others = machine.virtio.transports
        assert others
        monkeypatch.setattr(machine, "_resume_devices", lambda some: happened.append(list(some)))

        def started() -> None:
            happened.append("started")
            machine.end_machine(MachineEnd("stopped"))

        machine.run(lambda: happened.append("running"), started)
    assert happened == [[], "running", others, "started"]
