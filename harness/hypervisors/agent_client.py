"""The controller's end of the agent's control protocol; harness/agent/supervisor.py describes it.

One agent process runs per host and session. It starts, observes, measures and ends all guests.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from harness.errors import HarnessError, HostError, ProcessEnded, hide_frames
from harness.hosts.base import Host
from harness.hypervisors.archive import START, archive
from harness.hypervisors.base import End, Events, OnUtilization

__tracebackhide__ = hide_frames
API = 1
_ANSWER_TIMEOUT = 30.0
_CLOSE_TIMEOUT = 10.0


class GuestConnection:
    """Receives what the agent reports of one guest.

    Attributes:
        events: the guest's callbacks. on_monitor: receives each line of its monitor.
        ended: whether its end was reported. exited: set when its process and cgroup are gone.
    """

    def __init__(self, events: Events) -> None:
        self.events = events
        self.on_monitor: Callable[[str], None] = lambda line: None
        self.ended = False
        self.exited = threading.Event()
        self._end_text = ""

    def report(self, event: str, message: Mapping[str, Any]) -> None:
        """Deliver one event."""
        if event == "console":
            self.events.on_console(message["time_ns"], message["text"])
        elif event == "mark":
            self.events.on_mark(message["stage"], message["time_ns"])
        elif event == "end":
            first, *_ = str(message["detail"]).splitlines() or [""]  # the guest's end has all
            self._end_text = f": {message['reason']}, {first}"
            self.report_end(End(message["reason"], message["detail"], message["time_ns"]))
        elif event == "monitor":
            self.on_monitor(message["text"])
        elif event in ("exit", "access"):
            self.events.on_callback(message)

    def report_end(self, end: End) -> None:
        """Deliver its end, once."""
        if not self.ended:
            self.ended = True
            self.events.on_end(end)

    @property
    def exit_cause(self) -> str:
        """Why its requests get no answer any more."""
        return f"the guest's process is gone{self._end_text}"


class AgentClient:
    """A running agent on a host.

    Attributes: host; pid of the agent there.
    """

    def __init__(self, host: Host) -> None:
        """Start it. Raises HostError when it does not greet."""
        self.host = host
        self._guests: dict[str, GuestConnection] = {}
        self._answers: dict[int, tuple[str, queue.Queue[dict[str, Any]]]] = {}
        self._lock = threading.Lock()
        self._next_id = 0
        self._hello: queue.Queue[dict[str, Any]] = queue.Queue()
        self._on_utilization: OnUtilization | None = None
        program = archive()
        self._process = host.spawn(["python3", "-I", "-S", "-c", START, str(len(program))])
        self._reader = threading.Thread(target=self._read, name="agent", daemon=True)
        self._reader.start()
        try:
            self._process.write(program)
            hello = self._hello.get(timeout=_ANSWER_TIMEOUT)
        except (HostError, queue.Empty):
            hello = {}
        if hello.get("api") != API:
            self._process.kill()
            raise HostError(
                f"the agent does not start on {host.name}: "
                + (self._process.stderr_tail().strip() or "no answer"),
                hint="install python3 >= 3.9 on the host, in its PATH",
                stage="host",
            )
        self.pid = int(hello["pid"])
        if host.emulated:
            self._quarantine_memory()

    def _quarantine_memory(self) -> None:
        """Raises HostError."""
        try:
            self.request("quarantine_memory")
        except HarnessError as error:
            self._process.kill()
            raise HostError(error.cause, hint=error.hint, stage="host") from error

    # -- from the agent --------------------------------------------------------------------

    def _read(self) -> None:
        try:
            for line in iter(self._process.readline, b""):
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # a broken interpreter's message; _disconnect() reports the end
                if isinstance(message, dict):
                    self._dispatch(message)
        finally:  # also after an error in this thread: each open request gets an answer
            self._disconnect()

    def _dispatch(self, message: dict[str, Any]) -> None:
        event, guest = message.get("event"), message.get("guest", "")
        if event is None:
            _, answers = self._answers.get(message.get("id", -1), ("", None))
            if answers:
                answers.put(message)
        elif event == "hello":
            self._hello.put(message)
        elif event == "utilization":
            if self._on_utilization:
                self._on_utilization(message["time_ns"], message["values"], message["guests"])
        elif connection := self._guests.get(guest):
            if event == "process_exit":
                connection.exited.set()
                self._fail(guest, connection.exit_cause)
            else:
                connection.report(event, message)

    def _fail(self, guest: str | None, cause: str) -> None:
        """Answer the open requests of one guest, or of all (None), with an error."""
        for owner, answers in list(self._answers.values()):
            if guest in (None, owner):
                answers.put({"error": {"cause": cause}, "process_ended": True})

    def _disconnect(self) -> None:
        detail = self._process.stderr_tail().strip()
        cause = "the host's agent is gone" + (f": {detail}" if detail else "")
        self._hello.put({})
        self._fail(None, cause)
        for connection in list(self._guests.values()):
            connection.report_end(End("lost", cause))
            connection.exited.set()

    # -- to the agent ----------------------------------------------------------------------

    def request(
        self,
        operation: str,
        guest: str = "",
        arguments: Mapping[str, Any] | None = None,
        timeout: float = _ANSWER_TIMEOUT,
        *,
        limits: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> Any:
        """The result of an operation.

        limits: of a new guest's cgroup. files: name to path of each file that the agent creates for
        the operation. Raises HarnessError with cause and hint, also after `timeout` seconds.
        """
        answers: queue.Queue[dict[str, Any]] = queue.Queue()
        with self._lock:
            self._next_id += 1
            identifier = self._next_id
            self._answers[identifier] = (guest, answers)
            message = {"id": identifier, "guest": guest, "op": operation}
            if arguments is not None:
                message["arguments"] = dict(arguments)
            for name, values in (("limits", limits), ("files", files)):
                if values:
                    message[name] = dict(values)
            line = json.dumps(message).encode() + b"\n"
        try:
            with self._lock:
                self._process.write(line)
            answer = answers.get(timeout=timeout)
        except queue.Empty:
            answer = {"error": {"cause": f"no answer to {operation!r} within {timeout:g} s"}}
        finally:
            del self._answers[identifier]
        if "error" in answer:
            error = answer["error"]
            kind = ProcessEnded if answer.get("process_ended") else HarnessError
            raise kind(error["cause"], hint=error.get("hint", ""), guest=guest)
        return answer["result"]

    def connect(self, guest: str, events: Events) -> GuestConnection:
        """Deliver the events of a guest from now on."""
        connection = self._guests[guest] = GuestConnection(events)
        return connection

    def disconnect(self, guest: str) -> None:
        """Deliver no more events of a guest. Idempotent."""
        self._guests.pop(guest, None)

    def watch(self, callback: OnUtilization) -> None:
        """See Hypervisor."""
        self._on_utilization = callback

    def close(self) -> None:
        """End every guest and the agent. Raises HarnessError when the agent does not end."""
        self._process.close_stdin()
        try:
            self._process.wait(_CLOSE_TIMEOUT)
        except TimeoutError:
            self._process.kill()
            raise HarnessError(
                f"the agent (pid {self.pid} on {self.host.name}) did not end; it was killed, and "
                "its guests with it",
                hint="look for processes that hang there: ps, dmesg",
                stage="teardown",
            ) from None
        finally:
            self._reader.join(5.0)
