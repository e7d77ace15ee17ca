"""The warm parent: one supervisor a host and session, one forked process a guest.

Protocol, JSON lines on standard input and output:

    -> {"id": 1, "guest": "g", "op": "create", "arguments": {...vmm.config.Config...},
        "limits": {...cgroup.Cgroup.limit...}}
    <- {"id": 1, "guest": "g", "result": {facts}} or {..., "error": {"cause", "hint"}}
    -> {"id": 2, "guest": "g", "op": "restore", "arguments": {...RestoreConfig...}}       a clone
    -> {"id": 2, "guest": "g", "op": "exec", "arguments": {"argv": [...]}}   a peer VMM (see peer)
    -> {"id": 2, "guest": "g", "op": "create_container", "arguments": {...}}   see container
    -> {"id": 3, "guest": "g", "op": "stats"|"stop"|"type"|..., ...}         to the guest's process
    -> {"id": 3, ..., "files": {"name": path}}           made and opened here, see control
    <- {"event": "exit"|"access", "guest", "call": n, ...}   op "reply" answers it
    -> {"id": 4, "guest": "g", "op": "kill"}                                 SIGKILL to it
    -> {"id": 4, "guest": "g", "op": "private_dirty_pages", "arguments": {"path": FILE}}
    -> {"id": 5, "op": "capabilities"}                                       of this host's KVM
    -> {"id": 6, "op": "connectivity"}                                  vsock, network
    -> {"id": 7, "op": "quarantine_memory"}                         see memory_quarantine
    <- {"event": "mark", "guest", "stage", "time_ns"}   see hypervisors.base.Events
    <- {"event": "console", "guest", "port", "time_ns", "text"}
    <- {"event": "monitor", "guest", "text"}   a peer's QMP; what it is to get is op "monitor"
    <- {"event": "end", "guest", "reason", "detail", "time_ns"}              once a guest
    <- {"event": "process_exit", "guest"}     its process and cgroup are no more
    <- {"event": "utilization", "time_ns", "values", "guests": {"g": values}}   see utilization

At the end of its input, and on SIGTERM, SIGINT or SIGHUP, every guest ends with the supervisor;
should it be killed itself, the kernel ends them (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any

from harness.kvm.errors import ConfigError
from harness.kvm.vm import Kvm
from harness.vmm.devices.pci import unclaimed_config_space
from harness.vmm.memory import create_memory_file

from .cgroup import Cgroups
from .control import LineReader
from .directories import Directories
from .guest import SharedResources, run_guest
from .memory_quarantine import MemoryQuarantine
from .network import Network
from .private_pages import private_dirty_pages
from .process import die_with
from .utilization import GuestUtilization, Utilization

API = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_INTERVAL = 1.0
# of each thread: the default of 8 MiB may get a huge page for the few KiB that are used of it
_STACK = 1 << 20
_STUCK = 2.0  # seconds that a guest's process has to take a request off its socket


class Child:
    """A guest's process, seen from the supervisor."""

    def __init__(
        self, guest: str, pid: int, connection: socket.socket, cgroup: str, memory: int
    ) -> None:
        """cgroup: its directory; "" where there is none. memory: the file that it was given."""
        self.guest = guest
        self.pid = pid
        self.connection = connection
        self.memory = memory
        self.reader = LineReader()
        self.ended = False
        self.utilization = GuestUtilization(cgroup) if cgroup else None


class Supervisor:
    """Routes lines between standard input and output and the guests' processes."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._children: dict[str, Child] = {}
        self._cgroups = Cgroups()
        self._network = Network()
        self._directories = Directories()
        self._retired = MemoryQuarantine()
        self._utilization = Utilization()
        self._stdin = LineReader()
        self._closing = False

    def run(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, self._interrupted)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, None)
        self._send({"event": "hello", "api": API, "pid": os.getpid(), "python": sys.version})
        due = time.monotonic() + _INTERVAL
        try:
            while not self._closing:
                for key, _ in self._selector.select(max(0.0, due - time.monotonic())):
                    if key.data is None:
                        self._read_stdin()
                    else:
                        self._read_child(key.data)
                now = time.monotonic()
                if now >= due:
                    due = now + _INTERVAL
                    self._tick()
        except (BrokenPipeError, KeyboardInterrupt):
            pass
        finally:
            self._close()

    def _tick(self) -> None:
        try:
            self._retired.make_room()
            values = self._utilization.sample()
        except OSError:  # no descriptor is free just now
            return
        if values:
            values["memory.quarantined"] = self._retired.held
            told = {"time_ns": time.monotonic_ns(), "values": values, "guests": self._guests()}
            self._send({"event": "utilization", **told})

    def _guests(self) -> dict[str, dict[str, float]]:
        """What the living guests with a cgroup take; one that has none yet, or no more, is left
        out."""
        found = {}
        for guest, child in self._children.items():
            if child.utilization:
                with contextlib.suppress(OSError):
                    found[guest] = child.utilization.sample()
        return found

    def _send(self, message: dict[str, Any]) -> None:
        self._write(json.dumps(message).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        view = memoryview(line)
        while view:
            view = view[os.write(sys.stdout.fileno(), view) :]

    # requests

    def _read_stdin(self) -> None:
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            self._closing = True
            return
        try:
            for line in self._stdin.feed(data):
                self._line(line)
        except ValueError as error:
            self._send({"error": {"cause": f"malformed request: {error}"}})

    def _line(self, line: bytes) -> None:
        try:
            request = json.loads(line)
            self._request(request, line)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            self._send({"error": {"cause": f"malformed request: {error}"}})

    def _request(self, request: dict[str, Any], line: bytes) -> None:
        guest, operation = request.get("guest", ""), request.get("op")
        child = self._children.get(guest)
        answer = {"id": request.get("id"), "guest": guest}
        if operation in ("create", "restore", "exec", "create_container"):
            # the name is a cgroup's: ".." would be everybody's
            if child or guest in ("", ".", "..") or "/" in guest or not guest.isprintable():
                cause = f"guest name {guest!r} is taken or not usable"
                self._send({**answer, "error": {"cause": cause}})
            else:
                self._fork(guest, request)
        elif operation == "capabilities":
            self._send({**answer, **_capabilities()})
        elif operation == "connectivity":
            taps = (request.get("arguments") or {}).get("taps", True)
            self._send({**answer, "result": self._ways(taps)})
        elif operation == "quarantine_memory":
            self._retired.wanted = True
            self._send({**answer, "result": True})
        elif child and operation == "kill":
            os.kill(child.pid, signal.SIGKILL)
            self._send({**answer, "result": True})
        elif child and operation == "private_dirty_pages":
            self._send({**answer, **_copied(child, request.get("arguments") or {})})
        elif child:
            try:
                self._pass(child, request, line + b"\n")
            except socket.timeout:
                # It hangs, and has half a line: neither may hold up its neighbours.
                os.kill(child.pid, signal.SIGKILL)
            except OSError:
                pass  # it is ending: its end will be told
        else:
            self._send({**answer, "error": {"cause": f"no guest {guest!r}"}})

    def _ways(self, taps: bool) -> dict[str, Any]:
        """Whether there is vsock, and the guests' network, or why there is none. taps: those who
        want to join it have a tap each."""
        found: dict[str, Any] = {"vsock": os.access("/dev/vhost-vsock", os.R_OK | os.W_OK)}
        for path in ("/dev/net/tun", "/dev/vhost-net") if taps else ():
            if not os.access(path, os.R_OK | os.W_OK):
                module = os.path.basename(path).replace("-", "_")
                hint = f"load {module}, or give the user rights on {path}"
                return {**found, "cause": f"{path} is not there or not ours to open", "hint": hint}
        try:
            return {**found, "network": self._network.facts()}
        except ConfigError as error:
            return {**found, "cause": error.cause, "hint": error.hint}
        except OSError as error:
            hint = "raise pids.max or ulimit -n and -u, or run fewer guests"
            return {**found, "cause": f"no network for guests: {error.strerror}", "hint": hint}

    def _pass(self, child: Child, request: dict[str, Any], line: bytes) -> None:
        """Hand a request on, with the files that it names: the guest's process opens none."""
        files: dict[str, int] = {}
        try:
            for path in dict(request.get("files") or {}).values():
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                files[path] = os.open(path, flags, 0o600)
        except OSError as error:
            for path in files:
                os.unlink(path)
            refused = {"cause": f"{error.filename}: {error.strerror}", "hint": "give a new path"}
            self._send({"id": request.get("id"), "guest": child.guest, "error": refused})
        else:
            sent = socket.send_fds(child.connection, [line], list(files.values()))
            child.connection.sendall(line[sent:])
        finally:
            for fd in files.values():
                os.close(fd)

    def _fork(self, guest: str, request: dict[str, Any]) -> None:
        self._send({"event": "mark", "guest": guest, "stage": "create", "time_ns": _now()})
        parent = os.getpid()
        memory = -1
        try:
            memory = create_memory_file()
            ours, theirs = socket.socketpair()
            pid = os.fork()
        except OSError as error:
            if memory >= 0:
                os.close(memory)
            cause = f"no process for the guest: {error.strerror}"
            hint = "raise pids.max or ulimit -n and -u, or run fewer guests"
            refused = {"cause": cause, "hint": hint}
            self._send({"id": request.get("id"), "guest": guest, "error": refused})
            self._send({"event": "process_exit", "guest": guest})
            return
        if pid == 0:
            try:
                self._become_child(parent, ours)
                shared = SharedResources(self._cgroups, self._network, self._directories)
                run_guest(guest, theirs, request, shared, memory=memory)
            finally:
                os._exit(1)  # never unwind into the supervisor's own clean-up
        theirs.close()
        ours.settimeout(_STUCK)
        child = Child(guest, pid, ours, self._cgroups.path(guest), memory)
        self._children[guest] = child
        self._selector.register(ours, selectors.EVENT_READ, child)

    def _become_child(self, parent: int, ours: socket.socket) -> None:
        """In the fork: drop what is the supervisor's, and never outlive it."""
        die_with(parent)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self._selector.close()
        ours.close()
        for child in self._children.values():
            child.connection.close()
            os.close(child.memory)
        self._retired.close()
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)

    # children

    def _read_child(self, child: Child) -> None:
        try:
            data = child.connection.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._reap(child)
            return
        with contextlib.suppress(ValueError):  # an answer that repeats too long a request
            for line in child.reader.feed(data):
                # peeking is cheaper than parsing each line
                child.ended = child.ended or b'"event": "end"' in line
                self._write(line + b"\n")

    def _reap(self, child: Child) -> None:
        self._selector.unregister(child.connection)
        child.connection.close()
        _, status = os.waitpid(child.pid, 0)
        if not child.ended:
            reason, detail = _describe(status)
            if self._cgroups.killed_for_memory(child.guest):
                reason, detail = "out-of-memory", "its cgroup reached its limit of memory"
            self._send(
                {
                    "event": "end",
                    "guest": child.guest,
                    "reason": reason,
                    "detail": detail,
                    "time_ns": _now(),
                }
            )
        self._cgroups.remove(child.guest)
        self._directories.remove(child.guest)
        self._retired.add(child.memory)
        del self._children[child.guest]
        self._send({"event": "process_exit", "guest": child.guest})

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        """A signal: the first one, for a further one must not cut the end short."""
        if not self._closing:
            self._closing = True
            raise KeyboardInterrupt

    def _close(self) -> None:
        for child in list(self._children.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
        for child in list(self._children.values()):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, 0)
            self._cgroups.remove(child.guest)
        self._cgroups.close()
        self._directories.close()
        # the interpreter's own end takes the handlers away
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _capabilities() -> dict[str, Any]:
    """What this host's KVM can do, or why that cannot be known."""
    try:
        kvm = Kvm()
    except ConfigError as error:
        return {"error": {"cause": error.cause, "hint": error.hint}}
    try:
        return {"result": kvm.capabilities()}
    finally:
        kvm.close()


def _copied(child: Child, arguments: dict[str, Any]) -> dict[str, Any]:
    """What that guest's process has written of a file: asked here, as it may open nothing."""
    try:
        return {"result": private_dirty_pages(child.pid, str(arguments.get("path")))}
    except OSError as error:
        cause = f"the pages that it has written cannot be seen: {error.strerror}"
        hint = "keep the snapshot for that long; root on the host needs CAP_SYS_PTRACE"
        return {"error": {"cause": cause, "hint": hint}}


def _now() -> int:
    return time.monotonic_ns()


def signal_name(number: int) -> str:
    """ "SIGKILL"; real-time signals have numbers only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def _describe(status: int) -> tuple[str, str]:
    """A guest's process ended without a word: reason and detail."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        detail = f"the VMM process got signal {number} ({signal_name(number)})"
        if number == signal.SIGSYS:
            detail += ": a system call that its sandbox does not allow (seccomp; dmesg has which)"
        return "killed", detail
    return "vmm-error", f"the VMM process ended with status {os.WEXITSTATUS(status)}"


def main() -> None:
    threading.stack_size(_STACK)
    supervisor = Supervisor()
    unclaimed_config_space()
    # a guest's collector must not write into objects, and pages, that it shares with all others
    gc.collect()
    gc.freeze()
    supervisor.run()
