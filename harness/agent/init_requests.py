"""Requests to a guest's init over vsock, before a snapshot and in a clone.

The image's init (images/guest/vmm_requests.c) listens on PORT for the host only. A request is one
line of NAME=VALUE words; the answer is "ok" or an error. Before a snapshot, init prepares what
every clone needs. A clone receives its own identity: until it has answered, it has its origin's
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

Send = Callable[[bytes], None]

PORT = 1023
_SEED_BYTES = 64
# seconds: for the whole identity request, for one attempt, between attempts
_IDENTITY_TIMEOUT, _ATTEMPT_TIMEOUT, _POLL_INTERVAL = 20.0, 4.0, 0.001
_PREPARE_TIMEOUT = 4.0  # seconds; longer than init's own limit (PREPARE_NS in images/guest/init.c)
_ANSWER_LIMIT = 128  # bytes
_WORD = re.compile(r"[a-z]+=[!-~]{1,64}")


@dataclass
class RestoreConfig:
    """The arguments of "restore".

    snapshot: the snapshot's folder. config: fields of its configuration that this clone replaces,
    such as its disks' paths. identity: words for the clone's init; empty for a guest that has no
    such init. prefault_pages: pages to copy before the clone runs, in the form of Memory.prefault.
    """

    snapshot: str
    config: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, str] = field(default_factory=dict)
    prefault_pages: list[int] = field(default_factory=list)

    @classmethod
    def parse(cls, arguments: dict[str, Any]) -> RestoreConfig:
        """Raises ConfigError."""
        config = parse_dataclass(cls, arguments)
        if any(number < 0 for number in config.prefault_pages) or len(config.prefault_pages) % 2:
            cause = f"prefault_pages: no runs of pages: {config.prefault_pages!r:.80}"
            raise ConfigError(cause, "pass the result of private_dirty_pages, or nothing")
        for name, value in config.identity.items():
            if not _WORD.fullmatch(f"{name}={value}"):
                cause = f"identity: no word: {name!r:.40}={value!r:.80}"
                hint = "use a lower-case name and 1 to 64 printable characters without blanks"
                raise ConfigError(cause, hint)
        return config


class SnapshotPreparation:
    """Asks a guest's init to prepare for a snapshot what each clone would otherwise do itself.

    A guest without such an init, or a busy one, is not prepared; the snapshot is still valid. The
    request runs in a thread, because a vCPU may wait for a callback's answer meanwhile.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Start the request unless one is under way."""
        if self.finished():
            self._thread = threading.Thread(target=self._run, name="prepare snapshot", daemon=True)
            self._thread.start()
        return True

    def finished(self) -> bool:
        """Whether the guest is prepared, or will not be."""
        return self._thread is None or not self._thread.is_alive()

    def _run(self) -> None:
        machine, vsock = self._machine, self._machine.virtio.vsock
        if vsock and machine.guest_started and not machine.vcpus[0].run_control.paused:
            with contextlib.suppress(OSError):
                send = partial(_send_prepare, vsock)
                _connect_and_request(vsock.cid, send, _PREPARE_TIMEOUT)


def _send_prepare(vsock: Vsock, send: Send) -> None:
    """Each blank before the word uses one receive buffer, until the guest fills the ring again.

    The ring's buffers are tens of pages, which each clone would otherwise be the first to touch.
    """
    for _ in range(MAX_SIZE):
        if vsock.receive_queue_filled:
            break
        send(b" ")
        time.sleep(_POLL_INTERVAL)
    send(b"prepare=1\n")


def assign_identity(machine: Machine, identity: dict[str, str]) -> None:
    """Send a running clone its identity, then mark "adopted". A clone that refuses it ends."""
    vsock = machine.virtio.vsock
    if vsock is None or not identity:
        return
    try:
        answer = _request_identity(machine, vsock, identity)
    except Exception as error:  # this thread's caller does not wait for it
        machine.end_machine(error)
        return
    if answer == "ok":
        machine.event("mark", stage="adopted", time_ns=time.monotonic_ns())
    else:
        machine.end_machine(
            MachineEnd("vmm-error", f"the clone did not take its identity: {answer}")
        )


def _request_identity(machine: Machine, vsock: Vsock, identity: dict[str, str]) -> str:
    """The answer, or the last error. The timeout counts only while the machine is not paused."""
    answer = "it did not notice its new vsock address"
    deadline = time.monotonic() + _IDENTITY_TIMEOUT
    while time.monotonic() < deadline:
        if not machine.guest_started or machine.vcpus[0].run_control.paused:
            deadline = time.monotonic() + _IDENTITY_TIMEOUT
        # before the reset, the clone answers with its origin's address; the host drops such packets
        elif vsock.reset_acknowledged:
            try:
                send = partial(_send_identity, identity)
                return _connect_and_request(vsock.cid, send, _ATTEMPT_TIMEOUT)
            except OSError as error:
                # the reset may also close this connection without notice to the host
                answer = error.strerror or str(error)
        time.sleep(_POLL_INTERVAL)
    return answer


def _send_identity(words: dict[str, str], send: Send) -> None:
    """The time is read here, after the connection exists, so that it is exact."""
    line = {**words, "time": str(time.time_ns()), "seed": os.urandom(_SEED_BYTES).hex()}
    text = " ".join(f"{name}={value}" for name, value in line.items())
    send(f"{text}\n".encode())


def _connect_and_request(cid: int, send_line: Callable[[Send], None], timeout: float) -> str:
    """Connect to a guest's init and return its answer. Raises OSError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect((cid, PORT))
        return request(connection, send_line, deadline)


def request(connection: socket.socket, send_line: Callable[[Send], None], deadline: float) -> str:
    """Send a request and return the answer, without its newline.

    deadline: of the whole answer, in time.monotonic(), however it is split. Raises OSError.
    """

    def before_deadline() -> socket.socket:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        connection.settimeout(left)
        return connection

    send_line(lambda data: before_deadline().sendall(data))
    answer = b""
    while not answer.endswith(b"\n") and len(answer) < _ANSWER_LIMIT:
        data = before_deadline().recv(_ANSWER_LIMIT)
        if not data:
            raise ConnectionResetError("the guest closed the connection")
        answer += data
    return answer.decode("ascii", "replace").strip()
