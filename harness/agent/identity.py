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
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable

from harness.kvm.errors import ConfigError, MachineEnd
from harness.vmm.config import parse_dataclass
from harness.vmm.devices.virtio.queue import MAX_SIZE
from harness.vmm.devices.virtio.vsock import Vsock
from harness.vmm.machine import Machine

Sending = Callable[[bytes], None]

PORT = 1023
_SEED_BYTES = 64
_TIMEOUT, _TRY, _PAUSE = 20.0, 4.0, 0.001  # seconds: in all, for one try, between them
_SETTLED = 4.0  # seconds that a guest has for it, more than its init gives itself
_LIMIT = 128
_WORD = re.compile(r"[a-z]+=[!-~]{1,64}")


@dataclass
class Restore:
    """What "restore" asks for. snapshot: its folder. config: fields of its configuration that are
    others in this clone (its disks' paths). identity: words for its init; empty for a guest that
    takes none. prefault_pages: pages to copy before it runs, in the form of
    Memory.prefault."""

    snapshot: str
    config: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, str] = field(default_factory=dict)
    prefault_pages: list[int] = field(default_factory=list)

    @classmethod
    def parse(cls, given: dict[str, Any]) -> Restore:
        """Raises ConfigError."""
        restore = parse_dataclass(cls, given)
        if any(number < 0 for number in restore.prefault_pages) or len(restore.prefault_pages) % 2:
            cause = f"prefault_pages: no runs of pages: {restore.prefault_pages!r:.80}"
            raise ConfigError(cause, "give what another clone told, or nothing")
        for name, value in restore.identity.items():
            if not isinstance(value, str) or not _WORD.fullmatch(f"{name}={value}"):
                raise ConfigError(f"identity: no word: {name!r:.40}={value!r:.80}")
        return restore


class Settling:
    """Has a guest do what each of its clones would else have to do first; one that has no such
    init, or is busy, goes as it is. In a thread: a vCPU may have to be answered meanwhile."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        if self.ended():
            self._thread = threading.Thread(target=self._settle, name="settle", daemon=True)
            self._thread.start()
        return True

    def ended(self) -> bool:
        """It has settled, or will not."""
        return self._thread is None or not self._thread.is_alive()

    def _settle(self) -> None:
        machine, vsock = self._machine, self._machine.virtio.vsock
        if vsock and machine.guest_started and not machine.vcpus[0].run_control.paused:
            with contextlib.suppress(OSError):
                _ask(vsock.cid, partial(_send_settle, vsock), _SETTLED)


def _send_settle(vsock: Vsock, send: Sending) -> None:
    """Each blank before the word takes a buffer of the guest's, until it fills them up: tens of
    pages that else some clone would be the first to touch."""
    for _ in range(MAX_SIZE):
        if vsock.receive_queue_filled:
            break
        send(b" ")
        time.sleep(_PAUSE)
    send(b"settle=1\n")


def adopt(machine: Machine, identity: dict[str, str]) -> None:
    """Tell a clone that runs its identity, and mark "adopted"; one that does not take it ends."""
    vsock = machine.virtio.vsock
    if vsock is None or not identity:
        return
    try:
        why = _told(machine, vsock, identity)
    except Exception as error:  # in a thread that nobody waits for
        machine.end_machine(error)
        return
    if why == "ok":
        machine.event("mark", stage="adopted", time_ns=time.monotonic_ns())
    else:
        machine.end_machine(MachineEnd("vmm-error", f"the clone did not take its identity: {why}"))


def _told(machine: Machine, vsock: Vsock, identity: dict[str, str]) -> str:
    """Its answer, or why there is none after _TIMEOUT seconds in which it was not paused."""
    why = "it did not see that its address is another one now"
    end = time.monotonic() + _TIMEOUT
    while time.monotonic() < end:
        if not machine.guest_started or machine.vcpus[0].run_control.paused:
            end = time.monotonic() + _TIMEOUT
        # before that it answers with its origin's address, which the host does not let through
        elif vsock.reset_acknowledged:
            try:
                return _ask(vsock.cid, partial(_send_identity, identity), _TRY)
            except OSError as error:
                # the reset may cut a connection off, too, which only the guest knows then
                why = error.strerror or str(error)
        time.sleep(_PAUSE)
    return why


def _send_identity(words: dict[str, str], send: Sending) -> None:
    """Stamped when it can be read at once."""
    line = {**words, "time": str(time.time_ns()), "seed": os.urandom(_SEED_BYTES).hex()}
    text = " ".join(f"{name}={value}" for name, value in line.items())
    send(f"{text}\n".encode())


def _ask(cid: int, send: Callable[[Sending], None], timeout: float) -> str:
    """Connect and ask, within `timeout` seconds. Raises OSError."""
    end = time.monotonic() + timeout
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect((cid, PORT))
        return ask(connection, send, end)


def ask(peer: socket.socket, send: Callable[[Sending], None], end: float) -> str:
    """What a guest's init answers. end: when all of it is to be there (time.monotonic()), however
    little comes at a time. Raises OSError."""

    def in_time() -> socket.socket:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        peer.settimeout(left)
        return peer

    send(lambda data: in_time().sendall(data))
    answer = b""
    while not answer.endswith(b"\n") and len(answer) < _LIMIT:
        piece = in_time().recv(_LIMIT)
        if not piece:
            raise ConnectionResetError("the guest closed the connection")
        answer += piece
    return answer.decode("ascii", "replace").strip()
