"""The guests' processes as the supervisor sees them: fork, requests, end, clean-up."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from typing import Any

from harness.vmm.memory import create_memory_file

from .cgroup import Cgroups
from .control import LineReader, MessageWriter
from .directories import Directories
from .guest_process import SharedResources, run_guest
from .host_services import PROCESS_LIMIT_HINT, HostServices
from .private_dirty_pages import private_dirty_pages
from .process import die_with_parent
from .utilization import GuestUtilization

END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SEND_TIMEOUT = 2.0  # seconds that a guest's process has to read a request from its socket


class Child:
    """One guest's process."""

    def __init__(
        self, guest: str, pid: int, connection: socket.socket, cgroup: str, memory: int
    ) -> None:
        """connection: to the process. cgroup: its directory; "" if there is none. memory: the
        descriptor of the guest's memory file."""
        self.guest = guest
        self.pid = pid
        self.connection = connection
        self.memory = memory
        self.reader = LineReader()
        self.ended = False  # the process has reported the guest's end
        self.utilization = GuestUtilization(cgroup) if cgroup else None


class GuestProcesses:
    """The processes of all guests, by name of the guest."""

    def __init__(
        self, output: MessageWriter, selector: selectors.BaseSelector, host: HostServices
    ) -> None:
        """selector: each child's connection is registered with the Child as its data."""
        self._output = output
        self._selector = selector
        self._host = host
        self._cgroups = Cgroups()
        self._directories = Directories()
        self._children: dict[str, Child] = {}

    def find(self, guest: Any) -> Child | None:
        """Raises TypeError for a name that is no text."""
        return self._children.get(guest)

    def start(self, guest: str, request: dict[str, Any]) -> None:
        """Fork the guest's process, which answers the request."""
        self._output.send(
            {"event": "mark", "guest": guest, "stage": "create", "time_ns": time.monotonic_ns()}
        )
        parent = os.getpid()
        memory = -1
        try:
            memory = create_memory_file()
            connection, guest_end = socket.socketpair()
            pid = os.fork()
        except OSError as error:
            if memory >= 0:
                os.close(memory)
            refusal = {"cause": f"no process for the guest: {error.strerror}"}
            refusal["hint"] = PROCESS_LIMIT_HINT
            self._output.send({"id": request.get("id"), "guest": guest, "error": refusal})
            self._output.send({"event": "process_exit", "guest": guest})
            return
        if pid == 0:
            try:
                self._become_child(parent, connection)
                shared = SharedResources(self._cgroups, self._host.network, self._directories)
                run_guest(guest, guest_end, request, shared, memory=memory)
            finally:
                os._exit(1)  # the supervisor's clean-up must not run here
        guest_end.close()
        connection.settimeout(_SEND_TIMEOUT)
        child = Child(guest, pid, connection, self._cgroups.path(guest), memory)
        self._children[guest] = child
        self._selector.register(connection, selectors.EVENT_READ, child)

    def _become_child(self, parent: int, connection: socket.socket) -> None:
        """In the fork: close what is the supervisor's, and end when the supervisor ends."""
        die_with_parent(parent)
        for number in END_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self._selector.close()
        connection.close()
        for child in self._children.values():
            child.connection.close()
            os.close(child.memory)
        self._host.quarantine.close()
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)

    def read(self, child: Child) -> None:
        """Relay what a child has sent; clean up after a child that has ended."""
        try:
            data = child.connection.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._reap(child)
            return
        with contextlib.suppress(ValueError):  # an answer that repeats an oversized request
            for line in child.reader.feed(data):
                # a search is cheaper than parsing each line
                child.ended = child.ended or b'"event": "end"' in line
                self._output.write(line + b"\n")

    def _reap(self, child: Child) -> None:
        self._selector.unregister(child.connection)
        child.connection.close()
        _, status = os.waitpid(child.pid, 0)
        if not child.ended:
            reason, detail = describe_status(status)
            if self._cgroups.killed_for_memory(child.guest):
                reason, detail = "out-of-memory", "its cgroup reached its memory limit"
            end = {"event": "end", "guest": child.guest, "reason": reason, "detail": detail}
            self._output.send({**end, "time_ns": time.monotonic_ns()})
        self._remove_resources(child)
        self._host.quarantine.add(child.memory)
        del self._children[child.guest]
        self._output.send({"event": "process_exit", "guest": child.guest})

    def _remove_resources(self, child: Child) -> None:
        self._cgroups.remove(child.guest)
        self._directories.remove(child.guest)

    def forward(self, child: Child, request: dict[str, Any], line: bytes) -> None:
        """Send a request's line to its guest, with descriptors of the files that it names.

        The supervisor creates the files, since the sandbox of a guest's process forbids it.
        """
        try:
            self._forward(child, request, line)
        except socket.timeout:
            # The process hangs with half a line. Neither may delay the other guests.
            os.kill(child.pid, signal.SIGKILL)
        except OSError:
            pass  # the process is ending; its end is reported

    def _forward(self, child: Child, request: dict[str, Any], line: bytes) -> None:
        files: dict[str, int] = {}
        try:
            for path in dict(request.get("files") or {}).values():
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                files[path] = os.open(path, flags, 0o600)
        except OSError as error:
            for path in files:
                os.unlink(path)
            cause = f"{error.filename}: {error.strerror}"
            refusal = {"cause": cause, "hint": "use paths of files that do not exist"}
            self._output.send({"id": request.get("id"), "guest": child.guest, "error": refusal})
        else:
            sent = socket.send_fds(child.connection, [line], list(files.values()))
            child.connection.sendall(line[sent:])
        finally:
            for fd in files.values():
                os.close(fd)

    def kill(self, child: Child) -> dict[str, Any]:
        """Send SIGKILL; the answer to "kill"."""
        os.kill(child.pid, signal.SIGKILL)
        return {"result": True}

    def private_dirty_pages(self, child: Child, arguments: dict[str, Any]) -> dict[str, Any]:
        """The answer to "private_dirty_pages". The guest's process cannot open /proc itself."""
        try:
            return {"result": private_dirty_pages(child.pid, str(arguments.get("path")))}
        except OSError as error:
            cause = f"the clone's written pages cannot be read: {error.strerror}"
            hint = "keep the snapshot's files; root on the host needs CAP_SYS_PTRACE"
            return {"error": {"cause": cause, "hint": hint}}

    def sample(self) -> dict[str, dict[str, float]]:
        """The utilization of each guest with a cgroup, by name."""
        samples = {}
        for guest, child in self._children.items():
            if child.utilization:
                with contextlib.suppress(OSError):  # the cgroup does not exist yet, or no longer
                    samples[guest] = child.utilization.sample()
        return samples

    def close(self) -> None:
        """Kill all guests and remove their resources."""
        children = list(self._children.values())
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.pid, 0)
            self._remove_resources(child)
        self._cgroups.close()
        self._directories.close()


def signal_name(number: int) -> str:
    """ "SIGKILL"; real-time signals have numbers only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def describe_status(status: int) -> tuple[str, str]:
    """Reason and detail of the end of a process that did not report its guest's end.

    status: as from os.waitpid.
    """
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        detail = f"the VMM process got signal {number} ({signal_name(number)})"
        if number == signal.SIGSYS:
            detail += ": its sandbox (seccomp) forbids a system call; see dmesg for its number"
        return "killed", detail
    return "vmm-error", f"the VMM process ended with status {os.WEXITSTATUS(status)}"
