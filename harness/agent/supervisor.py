"""The agent's supervisor: one process a host and session, which forks one process for each guest.

The controller (harness/hypervisors/agent_client.py) drives it by JSON objects, one a line: requests
on standard input, answers and events on standard output. A line has at most LINE_LIMIT bytes.

Hello
-----
The first line is an event without a guest. A controller refuses another "api".

    <- {"event": "hello", "api": 1, "pid": 4711, "python": "3.11.2 ..."}

Requests and answers
--------------------
    -> {"id": 1, "op": "create", "guest": "g", "arguments": {...}, "limits": {...}, "files": {...}}
    <- {"id": 1, "guest": "g", "result": ...}
    <- {"id": 1, "guest": "g", "error": {"cause": "...", "hint": "..."}}

`id` is any JSON value; the answer repeats it. `guest` names a guest, for operations on guests. All
other fields are optional, and so is `hint`. Answers of one guest have the order of its requests;
answers of different guests have no order. The answer to a line that is no request is an error
without an id. Only an error of the request that starts a guest ends it.

Operations on the host
----------------------
    capabilities       result: KVM capability to value. The error tells why /dev/kvm is not usable.
    connectivity       arguments: {"taps": bool}; true (the default) if each guest needs a tap.
                       result: {"vsock": bool, "network": {"bridge", "address", "prefix",
                       "namespaces": {"user" or "net": path}}}; without a network, "cause" and
                       "hint" replace "network". The first request creates the network.
    quarantine_memory  From now on, keep the memory of ended guests (see memory_quarantine).

Operations that start a guest
-----------------------------
The guest's name is printable, has no "/", and belongs to no running guest. `limits` are those of
its cgroup (cgroup.Cgroup.limit): {"cpu": CPUs' worth of time, "cpus": [numbers], "memory": MiB}.
The result is the facts of the guest: "vmm", "pid", "sandbox" (the steps that took effect), "cgroup"
(its path or null), "port" (its interface at the bridge, or null); the built-in VMM adds those of
Machine.facts(). A refused guest ends by
{"event": "end", "reason": "refused"}.

    create             A machine of the built-in VMM. arguments: fields of vmm.config.Config.
    restore            A clone of a snapshot. arguments: fields of init_requests.RestoreConfig.
    exec               Another VMM's program. arguments: fields of external_vmm.ExternalVmmConfig,
                       with placeholders for descriptors of its memory, disks, network and monitor.
    create_container   No machine. arguments: fields of container.ContainerConfig.

Operations on a guest
---------------------
Every guest:
    stats              result: counters by name, such as "cpu_ns" and those of its cgroup.
    stop               End it; "end" has the reason "stopped". The answer comes first.
    kill               End its process by SIGKILL, even if it hangs; the reason is "killed".
Guests of "create" and "restore":
    type               arguments: {"text", "port"}. Write to a console: "ttyS0", "hvc0", or the
                       first one without "port".
    pause, resume      Stop the vCPUs, and let them run again.
    balloon            arguments: {"mib"}, the balloon's new size; without it, the guest updates
                       its statistics. result: the balloon's counters.
    limit_exits        arguments: {"limit"}, exits a second that end the machine as "exit-storm".
    prepare_snapshot   Have the guest's init prepare for a snapshot (see init_requests).
    snapshot_ready     result: whether that preparation is over.
    snapshot           files: {"memory": path, "state": path}. result: {"bytes": memory stored}.
    private_dirty_pages  arguments: {"path": of a snapshot's memory}. result: the runs of pages that
                       a clone has written, [first, count, ...] (see private_dirty_pages).
    The operations of introspection, which are documented there.
Guests of "exec":
    type               arguments: {"text"}, at most 4096 bytes. Write to the program's standard
                       input; an error if the program does not read it.
Guests of "exec" with "{monitor}" in their configuration:
    monitor            arguments: {"text"}, sent to the VMM's QMP server unchanged.

`files` maps an operation's names for files to paths on the host. The supervisor creates the files,
which must not exist, and passes their descriptors, because a guest's process may open no file.

Events
------
All have "event"; all but "hello" and "utilization" have "guest". "time_ns" is the host's
CLOCK_MONOTONIC.

    mark               "stage", "time_ns": "create"; then "kernel" (the first guest instruction), or
                       of a clone "restored" (it runs) and "adopted" (it has its own identity).
    console            "time_ns", "text", "port": one line; "port" only with the built-in VMM.
    monitor            "text": one line of QMP.
    exit, access       "call", ...: an exit hook or a callback device; the operation "reply" answers
                       (see introspection).
    end                "reason", "detail", "time_ns": exactly once for each guest with a process.
                       The reasons are those of harness.hypervisors.base.End.
    process_exit       The last event: the process, its cgroup and its directory are removed,
                       and the name is free.
    utilization        "time_ns", "values", "guests": once a second (see utilization).

End
---
The end of standard input, SIGTERM, SIGINT or SIGHUP end the supervisor and all guests. If the
supervisor is killed, the kernel kills the guests (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from harness.vmm.devices.pci import unclaimed_config_space

from .control import LineReader, MessageWriter
from .guest_processes import END_SIGNALS, GuestProcesses
from .host_services import HostServices

API = 1
_START_OPERATIONS = ("create", "restore", "exec", "create_container")
_INTERVAL = 1.0  # seconds between reports of utilization
# A thread's default stack of 8 MiB may get a huge page although it uses only a few KiB.
_STACK_SIZE = 1 << 20


class Supervisor:
    """Reads requests from standard input and dispatches them to the host or to guests."""

    def __init__(self, output: MessageWriter) -> None:
        self._output = output
        self._selector = selectors.DefaultSelector()
        self._host = HostServices()
        self.guests = GuestProcesses(output, self._selector, self._host)
        self._stdin = LineReader()
        self._closing = False

    def run(self) -> None:
        """Serve until the end of standard input or a signal."""
        for number in END_SIGNALS:
            signal.signal(number, self._handle_signal)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, None)
        self._output.send({"event": "hello", "api": API, "pid": os.getpid(), "python": sys.version})
        due = time.monotonic() + _INTERVAL
        try:
            while not self._closing:
                for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                    if key.data is None:
                        self._read_stdin()
                    else:
                        self.guests.read(key.data)
                now = time.monotonic()
                if now >= due:
                    due = now + _INTERVAL
                    self.report_utilization()
        except (BrokenPipeError, KeyboardInterrupt):
            pass
        finally:
            self.guests.close()
            # the interpreter removes the handlers at its end; a late signal must not kill it then
            signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        """Only the first signal interrupts: another one must not interrupt the clean-up."""
        if not self._closing:
            self._closing = True
            raise KeyboardInterrupt

    def report_utilization(self) -> None:
        """Send the event "utilization"."""
        try:
            values = self._host.sample()
        except OSError:  # no descriptor is free at the moment
            return
        if values:
            event = {"event": "utilization", "time_ns": time.monotonic_ns(), "values": values}
            self._output.send({**event, "guests": self.guests.sample()})

    def _read_stdin(self) -> None:
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            self._closing = True
            return
        try:
            for line in self._stdin.feed(data):
                self.handle_line(line)
        except ValueError as error:
            self._output.send({"error": {"cause": f"malformed request: {error}"}})

    def handle_line(self, line: bytes) -> None:
        """Answer or forward one request."""
        try:
            request = json.loads(line)
            self._dispatch(request, line)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            self._output.send({"error": {"cause": f"malformed request: {error}"}})

    def _dispatch(self, request: dict[str, Any], line: bytes) -> None:
        guest, operation = request.get("guest", ""), request.get("op")
        arguments = request.get("arguments") or {}
        child = self.guests.find(guest)
        answer: dict[str, Any] = {}
        if operation in _START_OPERATIONS:
            # the name is also that of a cgroup: ".." would be the parent of all cgroups
            if child or guest in ("", ".", "..") or "/" in guest or not guest.isprintable():
                answer = {"error": {"cause": f"guest name {guest!r} is taken or not usable"}}
            else:
                self.guests.start(guest, request)
        elif isinstance(operation, str) and self._host.handles(operation):
            answer = self._host.answer(operation, arguments)
        elif child is None:
            answer = {"error": {"cause": f"no guest {guest!r}"}}
        elif operation == "kill":
            answer = self.guests.kill(child)
        elif operation == "private_dirty_pages":
            answer = self.guests.private_dirty_pages(child, arguments)
        else:
            self.guests.forward(child, request, line + b"\n")
        if answer:
            self._output.send({"id": request.get("id"), "guest": guest, **answer})


def main() -> None:
    threading.stack_size(_STACK_SIZE)
    supervisor = Supervisor(MessageWriter(sys.stdout.fileno()))
    unclaimed_config_space()
    # a guest's garbage collector must not write to objects, and so pages, that all guests share
    gc.collect()
    gc.freeze()
    supervisor.run()
