"""The harness's end of the VMM's control protocol (harness/vmm/supervisor.py has it in full).

One supervisor process a host and session; guests of the built-in VMM and peers such as QEMU are its
children, so both are started, watched, counted and ended in the same way.
"""

from __future__ import annotations

import contextlib
import io
import json
import queue
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness import scratch, vmm
from harness.errors import HarnessError, HostError, ProvisionError, hide_frames
from harness.hosts.base import Host, Stream
from harness.hypervisors.base import Disk, End, Events, GuestSpec, OnUtilization

__tracebackhide__ = hide_frames
API = 1
_ANSWER_TIMEOUT = 30.0
_ENTRY = b"from vmm.supervisor import main\n\nmain()\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same sources give the same archive


def archive() -> bytes:
    """harness.vmm as a zipapp: runs with `python3 FILE` on any host."""
    root = Path(vmm.__file__).parent
    sources = {
        f"vmm/{path.relative_to(root)}": path.read_bytes()
        for path in root.rglob("*.py")
        if path.name != "__main__.py"
    }
    sources["__main__.py"] = _ENTRY
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name in sorted(sources):
            file.writestr(zipfile.ZipInfo(name, _EPOCH), sources[name])
    return buffer.getvalue()


class Child:
    """What the supervisor says of one guest, and who wants to know."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.ended = False
        self.gone = threading.Event()


class Supervisor:
    """A running supervisor on a host."""

    def __init__(self, host: Host) -> None:
        """Starts it. Raises HostError when it does not say hello."""
        self.host = host
        self._children: dict[str, Child] = {}
        self._answers: dict[int, tuple[str, queue.Queue[dict[str, Any]]]] = {}
        self._lock = threading.Lock()
        self._next_id = 0
        self._hello: queue.Queue[dict[str, Any]] = queue.Queue()
        self._on_utilization: OnUtilization | None = None
        with scratch.directory() as folder:
            path = folder / "vmm.pyz"
            path.write_bytes(archive())
            self._process = host.spawn(["python3", "-I", "-S", host.place(path)])
            self._reader = threading.Thread(target=self._read, name="supervisor", daemon=True)
            self._reader.start()
            try:  # once it says hello, it has imported all it needs of the archive
                hello = self._hello.get(timeout=_ANSWER_TIMEOUT)
            except queue.Empty:
                hello = {}
        if hello.get("api") != API:
            self._process.kill()
            raise HostError(
                f"the VMM's supervisor does not start on {host.name}: "
                + (self._process.stderr_tail().strip() or "no answer"),
                mend="the host needs python3 >= 3.9 in its PATH",
                stage="host",
            )
        self.pid = int(hello["pid"])

    # from the supervisor

    def _read(self) -> None:
        for line in iter(self._process.readline, b""):
            try:
                self._dispatch(json.loads(line))
            except (ValueError, KeyError, TypeError):
                # not of the protocol: a broken interpreter's last words; its end is told below
                continue
        self._lost()

    def _dispatch(self, message: dict[str, Any]) -> None:
        event, guest = message.get("event"), message.get("guest", "")
        if event is None:
            _, waiting = self._answers.get(message.get("id", -1), ("", None))
            if waiting:
                waiting.put(message)
        elif event == "hello":
            self._hello.put(message)
        elif event == "utilization":
            if self._on_utilization:
                self._on_utilization(message["time_ns"], message["values"])
        elif guest in self._children:
            self._tell(self._children[guest], guest, event, message)

    def _tell(self, child: Child, guest: str, event: str, message: dict[str, Any]) -> None:
        if event == "console":
            child.events.on_console(message["time_ns"], message["text"])
        elif event == "mark":
            child.events.on_mark(message["stage"], message["time_ns"])
        elif event == "end":
            child.ended = True
            child.events.on_end(End(message["reason"], message["detail"], message["time_ns"]))
        elif event == "gone":
            child.gone.set()
            self._fail(guest, "the guest's process is gone")

    def _fail(self, guest: str | None, cause: str) -> None:
        """Answer what will never be answered, for one guest or (None) for all."""
        for owner, waiting in list(self._answers.values()):
            if guest in (None, owner):
                waiting.put({"error": {"cause": cause}})

    def _lost(self) -> None:
        detail = self._process.stderr_tail().strip()
        cause = "the VMM's supervisor is gone" + (f": {detail}" if detail else "")
        self._hello.put({})
        self._fail(None, cause)
        for child in list(self._children.values()):
            if not child.ended:
                child.ended = True
                child.events.on_end(End("lost", cause))
            child.gone.set()

    # to the supervisor

    def request(
        self,
        operation: str,
        guest: str = "",
        arguments: Mapping[str, Any] | None = None,
        timeout: float = _ANSWER_TIMEOUT,
    ) -> Any:
        """The answer's result. Raises HarnessError with its cause and mend, or when late."""
        waiting: queue.Queue[dict[str, Any]] = queue.Queue()
        with self._lock:
            self._next_id += 1
            identifier = self._next_id
            self._answers[identifier] = (guest, waiting)
            message = {"id": identifier, "guest": guest, "op": operation}
            if arguments is not None:
                message["arguments"] = dict(arguments)
            line = json.dumps(message).encode() + b"\n"
        try:
            with self._lock:
                self._process.write(line)
            answer = waiting.get(timeout=timeout)
        except queue.Empty:
            answer = {"error": {"cause": f"no answer to {operation!r} within {timeout:g} s"}}
        finally:
            del self._answers[identifier]
        if "error" in answer:
            error = answer["error"]
            raise HarnessError(error["cause"], mend=error.get("mend", ""), guest=guest)
        return answer["result"]

    def start(
        self,
        operation: str,
        guest: str,
        arguments: Mapping[str, Any],
        events: Events,
        timeout: float,
    ) -> SupervisedMachine:
        """ "create" or "exec" a guest. Raises ProvisionError, stage "create"."""
        child = self._children[guest] = Child(events)
        try:
            facts = self.request(operation, guest, arguments, timeout)
        except HarnessError as error:
            if not child.gone.wait(1.0):
                with contextlib.suppress(HarnessError):
                    self.request("kill", guest)
            del self._children[guest]
            raise ProvisionError(
                error.cause, mend=error.mend, stage="create", guest=guest
            ) from None
        return SupervisedMachine(self, guest, child, facts)

    def forget(self, guest: str) -> None:
        self._children.pop(guest, None)

    def watch(self, callback: OnUtilization) -> None:
        self._on_utilization = callback

    def close(self) -> None:
        """End every guest and the supervisor. Raises HarnessError naming what does not end."""
        self._process.close_stdin()
        try:
            self._process.wait(10.0)
        except TimeoutError:
            self._process.kill()
            raise HarnessError(
                f"the VMM's supervisor (pid {self.pid} on {self.host.name}) did not end by itself",
                mend="it was killed, and its guests with it",
                stage="teardown",
            ) from None
        finally:
            self._reader.join(5.0)


class SupervisedMachine:
    """See harness.hypervisors.base.Machine."""

    def __init__(
        self, supervisor: Supervisor, guest: str, child: Child, facts: Mapping[str, Any]
    ) -> None:
        self._supervisor = supervisor
        self._guest = guest
        self._child = child
        self.facts = facts

    def connect(self, port: int, timeout: float) -> Stream:
        return self._supervisor.host.connect_vsock(int(self.facts["cid"]), port, timeout)

    def statistics(self) -> dict[str, int]:
        return dict(self._supervisor.request("stats", self._guest))

    def stop(self, timeout: float = 5.0) -> None:
        if not self._child.gone.is_set():
            with contextlib.suppress(HarnessError):  # it may be ending by itself
                self._supervisor.request("stop", self._guest, timeout=timeout)
            if not self._child.gone.wait(timeout):
                with contextlib.suppress(HarnessError):
                    self._supervisor.request("kill", self._guest, timeout=timeout)
                if not self._child.gone.wait(timeout):
                    raise HarnessError(
                        f"the VMM process {self.facts.get('pid')} does not end, even by SIGKILL",
                        mend=f"look at it on {self._supervisor.host.name}: ps, dmesg",
                        stage="teardown",
                        guest=self._guest,
                    )
        self._supervisor.forget(self._guest)


class SupervisedHypervisor:
    """What the built-in VMM and its peers have in common: machines under one supervisor."""

    name = ""

    def __init__(self, host: Host, progress: Callable[[str], None]) -> None:
        """Starts the supervisor. Raises HostError."""
        self.host = host
        self.supervisor = Supervisor(host)

    def disks(self, spec: GuestSpec) -> tuple[Disk, ...]:
        """All disks of a guest as they are on the host, the root disk first."""
        return (Disk(self.host.place(spec.image.disk), "root"), *spec.disks)

    def capabilities(self) -> Mapping[str, int]:
        return dict(self.supervisor.request("capabilities"))

    def watch(self, callback: OnUtilization) -> None:
        self.supervisor.watch(callback)

    def close(self) -> None:
        self.supervisor.close()
