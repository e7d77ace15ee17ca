"""What a guest's init is asked around a snapshot, over vsock: one line of words, answered by "ok".

The init of the image (images/guest/adopt.c) listens on PORT for the host alone. Before a snapshot
it is to settle; a clone is told its own identity, and until it has answered it has its origin's
random numbers, clock and name.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable

from harness.kvm.errors import ConfigError, MachineEnd
from harness.vmm.config import record
from harness.vmm.devices.virtio.vsock import Vsock
from harness.vmm.machine import Machine

PORT = 1023
_SEED_BYTES = 64
_TIMEOUT, _TRY, _PAUSE = 20.0, 4.0, 0.001  # seconds: in all, for one try, between them
_SETTLED = 5.0  # seconds that a guest has for it
_LIMIT = 128
_BUFFERS = 256  # of a receive queue, at most
_WORD = re.compile(r"[a-z]+=[!-~]{1,64}")


@dataclass
class Restore:
    """What "restore" asks for. snapshot: its folder. config: fields of its configuration that are
    others in this clone (its disks' paths). identity: words for its init; empty for a guest that
    takes none."""

    snapshot: str
    config: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, given: dict[str, Any]) -> Restore:
        """Raises ConfigError."""
        restore = record(cls, given)
        for name, value in restore.identity.items():
            if not isinstance(value, str) or not _WORD.fullmatch(f"{name}={value}"):
                raise ConfigError(f"identity: no word: {name!r:.40}={value!r:.80}")
        return restore


def settle(machine: Machine) -> None:
    """Have a guest do what each of its clones would else have to do first; one that has no such
    init, or is busy, goes as it is."""
    vsock = machine.vsock
    if vsock and machine.begun and not machine.vcpus[0].paused:
        with contextlib.suppress(OSError):
            _ask(vsock.cid, partial(_send_settle, vsock), _SETTLED)


def _send_settle(vsock: Vsock, connection: socket.socket) -> None:
    """Each byte takes a buffer of the guest's, until it fills them up: tens of pages that else
    some clone would be the first to touch."""
    for _ in range(_BUFFERS):
        if vsock.well_filled:
            break
        connection.sendall(b" ")
        time.sleep(_PAUSE)
    connection.sendall(b"settle=1\n")


def adopt(machine: Machine, identity: dict[str, str]) -> None:
    """Tell a clone that runs its identity, and mark "adopted"; one that does not take it ends."""
    if machine.vsock is None or not identity:
        return
    try:
        why = _told(machine, machine.vsock, identity)
    except Exception as error:  # in a thread that nobody waits for
        machine.end(error)
        return
    if why == "ok":
        machine.event("mark", stage="adopted", time_ns=time.monotonic_ns())
    else:
        machine.end(MachineEnd("vmm-error", f"the clone did not take its identity: {why}"))


def _told(machine: Machine, vsock: Vsock, identity: dict[str, str]) -> str:
    """Its answer, or why there is none after _TIMEOUT seconds in which it was not paused."""
    why = "it did not see that its address is another one now"
    end = time.monotonic() + _TIMEOUT
    while time.monotonic() < end:
        if not machine.begun or machine.vcpus[0].paused:
            end = time.monotonic() + _TIMEOUT
        # before that it answers with its origin's address, which the host does not let through
        elif vsock.reset_seen:
            try:
                return _ask(vsock.cid, partial(_send_identity, identity), _TRY)
            except OSError as error:
                # the reset may cut a connection off, too, which only the guest knows then
                why = error.strerror or str(error)
        time.sleep(_PAUSE)
    return why


def _send_identity(words: dict[str, str], connection: socket.socket) -> None:
    """Stamped when it can be read at once."""
    line = {**words, "time": str(time.time_ns()), "seed": os.urandom(_SEED_BYTES).hex()}
    text = " ".join(f"{name}={value}" for name, value in line.items())
    connection.sendall(f"{text}\n".encode())


def _ask(cid: int, send: Callable[[socket.socket], None], timeout: float) -> str:
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect((cid, PORT))
        send(connection)
        answer = b""
        while not answer.endswith(b"\n") and len(answer) < _LIMIT:
            piece = connection.recv(_LIMIT)
            if not piece:
                raise ConnectionResetError("the guest closed the connection")
            answer += piece
    return answer.decode("ascii", "replace").strip()
