"""The harness's end of the VMM's control protocol (harness/agent/supervisor.py has it in full).

One supervisor process a host and session; guests of the built-in VMM and peers such as QEMU are its
children, so both are started, watched, counted and ended in the same way.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from harness.agent.overhead import OverheadCorrectedCounters
from harness.errors import HarnessError, HostError, ProvisionError, hide_frames
from harness.hosts.base import Host
from harness.hypervisors.archive import START, archive
from harness.hypervisors.base import ROOT_DISK, Disk, End, Events, GuestSpec, OnUtilization
from harness.hypervisors.connectivity import Connectivity, resolve_connectivity
from harness.hypervisors.qmp_bridge import QmpBridge
from harness.ssh.process import Stream

__tracebackhide__ = hide_frames
API = 1
_KVM = [{"provider": "kvm"}]  # of query-stats: the binary statistics of its virtual machine
PAYLOAD_TIMEOUT = 30.0  # seconds to make one: milliseconds, on a host with nothing else to do
_ANSWER_TIMEOUT = 30.0
_LOOK = 0.02  # seconds between looks whether a guest has settled
_SNAPSHOT_TIMEOUT = 120.0
_DIRTY_PAGES_TIMEOUT = 2.0  # a clone that is ready waits for it


class Child:
    """What the supervisor says of one guest, and who wants to know."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.on_monitor: Callable[[str], None] = lambda line: None  # what a peer says on its own
        self.ended = False
        self.why = ""  # how
        self.gone = threading.Event()


class AgentClient:
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
        program = archive()
        self._process = host.spawn(["python3", "-I", "-S", "-c", START, str(len(program))])
        self._reader = threading.Thread(target=self._read, name="supervisor", daemon=True)
        self._reader.start()
        try:
            self._process.write(program)
            hello = self._hello.get(timeout=_ANSWER_TIMEOUT)
        except (HostError, queue.Empty):
            hello = {}
        if hello.get("api") != API:
            self._process.kill()
            raise HostError(
                f"the VMM's supervisor does not start on {host.name}: "
                + (self._process.stderr_tail().strip() or "no answer"),
                hint="the host needs python3 >= 3.9 in its PATH",
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

    # from the supervisor

    def _read(self) -> None:
        try:
            for line in iter(self._process.readline, b""):
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # a broken interpreter's last words; its end is told below
                if isinstance(message, dict):
                    self._dispatch(message)
        finally:  # also of an error of ours: nobody is to wait for what is not read any more
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
                told = (message[name] for name in ("time_ns", "values", "guests"))
                self._on_utilization(*told)
        elif guest in self._children:
            self._tell(self._children[guest], guest, event, message)

    def _tell(self, child: Child, guest: str, event: str, message: dict[str, Any]) -> None:
        if event == "console":
            child.events.on_console(message["time_ns"], message["text"])
        elif event == "mark":
            child.events.on_mark(message["stage"], message["time_ns"])
        elif event == "end":
            child.ended = True
            child.why = f": {message['reason']}, {message['detail']}"
            child.events.on_end(End(message["reason"], message["detail"], message["time_ns"]))
        elif event == "monitor":
            child.on_monitor(message["text"])
        elif event in ("exit", "access"):
            child.events.on_callback(message)
        elif event == "process_exit":
            child.gone.set()
            self._fail(guest, f"the guest's process is gone{child.why}")

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
        *,
        limits: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> Any:
        """The answer's result. files: those that the host is to make for the operation, by the
        operation's names for them. Raises HarnessError with cause and hint, or when late."""
        waiting: queue.Queue[dict[str, Any]] = queue.Queue()
        with self._lock:
            self._next_id += 1
            identifier = self._next_id
            self._answers[identifier] = (guest, waiting)
            message = {"id": identifier, "guest": guest, "op": operation}
            if arguments is not None:
                message["arguments"] = dict(arguments)
            for name, more in (("limits", limits), ("files", files)):
                if more:
                    message[name] = dict(more)
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
            raise HarnessError(error["cause"], hint=error.get("hint", ""), guest=guest)
        return answer["result"]

    def start(
        self,
        operation: str,
        guest: str,
        arguments: Mapping[str, Any],
        events: Events,
        timeout: float,
        *,
        limits: Mapping[str, Any] | None = None,
    ) -> SupervisedMachine:
        """ "create", "restore", "exec" or "create_container" a guest; limits: of its cgroup. Raises
        ProvisionError, stage "create"."""
        made_by = _MACHINES[operation]
        if made_by is PeerMachine and not any("{monitor}" in word for word in arguments["argv"]):
            made_by = SupervisedMachine
        child = self._children[guest] = Child(events)
        machine = made_by(self, guest, child)
        try:
            facts = self.request(operation, guest, arguments, timeout, limits=limits)
        except HarnessError as error:
            if not child.gone.wait(1.0):
                with contextlib.suppress(HarnessError):
                    self.request("kill", guest)
            machine.forget()
            raise ProvisionError(
                error.cause, hint=error.hint, stage="create", guest=guest
            ) from None
        machine.facts = facts
        return machine

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
                hint="it was killed, and its guests with it",
                stage="teardown",
            ) from None
        finally:
            self._reader.join(5.0)


class SupervisedMachine:
    """See harness.hypervisors.base.Machine.

    within: starts of a command line that put a command into its network.
    """

    within: Sequence[str] = ()
    facts: Mapping[str, Any]

    def __init__(self, supervisor: AgentClient, guest: str, child: Child) -> None:
        self._supervisor = supervisor
        self._guest = guest
        self._child = child
        self.facts = {}

    def forget(self) -> None:
        """It is no more: leave nothing of it here."""
        self._supervisor.forget(self._guest)

    @property
    def ended(self) -> bool:
        return self._child.ended

    def connect(self, port: int, timeout: float) -> Stream:
        host, cid = self._supervisor.host, int(self.facts["cid"])
        if cid:
            return host.connect_vsock(cid, port, timeout)
        return host.connect_tcp(str(self.facts["address"]), port, timeout, self.within)

    def statistics(self) -> dict[str, int]:
        return dict(self._supervisor.request("stats", self._guest))

    def balloon(self, mib: int | None = None) -> dict[str, int]:
        """See harness.guest.guest.Guest.balloon."""
        if not any(name.startswith("virtio-balloon") for name in self.facts.get("devices", ())):
            raise HarnessError(
                "the machine has no balloon that we steer",
                hint='take --hypervisor=kvm, without vmm={"balloon": False}',
                guest=self._guest,
            )
        arguments = {} if mib is None else {"mib": mib}
        return dict(self._supervisor.request("balloon", self._guest, arguments))

    def limit_exits(self, limit: int) -> None:
        """See harness.guest.guest.Guest.limit_exits."""
        self._supervisor.request("limit_exits", self._guest, {"limit": limit})

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
                        hint=f"look at it on {self._supervisor.host.name}: ps, dmesg",
                        stage="teardown",
                        guest=self._guest,
                    )
        self.forget()


class BuiltInMachine(SupervisedMachine):
    """One of our own VMM's: it can be reached into."""

    def ask(self, operation: str, **arguments: Any) -> Any:
        """See Machine."""
        return self._supervisor.request(operation, self._guest, arguments)

    def snapshot(self, folder: str) -> int:
        """Let the guest settle, then pause it and write a snapshot into an empty folder of the
        host; the bytes of its memory that are not zero."""
        self.ask("prepare_snapshot")
        while not self.ask("snapshot_ready"):
            time.sleep(_LOOK)
        files = {name: f"{folder}/{name}" for name in ("memory", "state")}
        request = self._supervisor.request
        done = request("snapshot", self._guest, {}, _SNAPSHOT_TIMEOUT, files=files)
        return int(done["bytes"])

    def private_dirty_pages(self, folder: str) -> list[int]:
        """Of a clone, the pages of the snapshot in that folder that it has written: see
        harness/agent/private_pages.py."""
        path = f"{folder}/memory"
        request = self._supervisor.request
        return list(
            request("private_dirty_pages", self._guest, {"path": path}, _DIRTY_PAGES_TIMEOUT)
        )


class PeerMachine(SupervisedMachine):
    """A peer's, with a monitor that is QEMU's: `monitor.execute("query-status")`."""

    def __init__(self, supervisor: AgentClient, guest: str, child: Child) -> None:
        super().__init__(supervisor, guest, child)
        self._qmp_bridge = QmpBridge(
            lambda text: supervisor.request("monitor", guest, {"text": text})
        )
        child.on_monitor = self._qmp_bridge.receive
        self.monitor = self._qmp_bridge.monitor
        self._aside = OverheadCorrectedCounters(super().statistics)

    def statistics(self) -> dict[str, int]:
        return self._aside.during(self._told) if self._tells_statistics else super().statistics()

    def _told(self) -> dict[str, int]:
        """KVM's counters, summed over VM and vCPUs."""
        counted: Counter[str] = Counter()
        for target in ("vm", "vcpu"):
            for one in self.monitor.execute("query-stats", target=target, providers=_KVM):
                for stat in one["stats"]:
                    name, value = stat["name"], stat["value"]
                    if type(value) is int:  # no histogram, nothing that is so or not
                        counted[name] += value
        return counted

    @cached_property
    def _tells_statistics(self) -> bool:
        """Since QEMU 7.1."""
        known = self.monitor.execute("query-commands")
        return any(one["name"] == "query-stats" for one in known)

    def forget(self) -> None:
        super().forget()
        self._qmp_bridge.close()


_MACHINES: Mapping[str, type[SupervisedMachine]] = {
    "create": BuiltInMachine,
    "restore": BuiltInMachine,
    "exec": PeerMachine,
    "create_container": SupervisedMachine,
}


class SupervisedHypervisor:
    """What the built-in VMM and its peers have in common: machines under one supervisor."""

    name = ""
    taps = True  # its guests join their network by a tap each

    def __init__(self, host: Host, progress: Callable[[str], None]) -> None:
        """Starts the supervisor. Raises HostError."""
        self.host = host
        self.supervisor = AgentClient(host)
        self._numbers = itertools.count()

    @cached_property
    def _ways(self) -> Mapping[str, Any]:
        """How guests can be reached; asked for the first guest's sake, which makes the network."""
        return dict(self.supervisor.request("connectivity", arguments={"taps": self.taps}))

    def access(self, spec: GuestSpec) -> Connectivity:
        """How this guest is reached. Raises ProvisionError for what the host does not have."""
        return resolve_connectivity(spec, self._ways, next(self._numbers))

    def command_line(self, spec: GuestSpec, access: Connectivity) -> str:
        """What the guest's kernel is told, by every hypervisor alike.

        norandmaps on an emulated host: a program at the same addresses again needs no translation
        of its own, which fills QEMU's code buffer (CODE_BUFFER in harness/hosts/qemu.py).
        """
        told = (spec.command_line, access.cmdline, "norandmaps" if self.host.emulated else "")
        return " ".join(filter(None, told))

    def in_network(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` on the host, but in the guests' network, where the
        host has the bridge's address. Raises HostError where there is none."""
        if "network" not in self._ways:
            raise HostError(
                f"there is no network of guests on {self.host.name}: {self._ways['cause']}",
                hint=self._ways["hint"],
                stage="host",
            )
        places = self._ways["network"]["namespaces"]
        ways = [f"--{name}={path}" for name, path in places.items()]
        return ["nsenter", "--preserve-credentials", *ways, "--", *argv]

    def start(
        self,
        operation: str,
        spec: GuestSpec,
        arguments: Mapping[str, Any],
        access: Connectivity,
        events: Events,
    ) -> SupervisedMachine:
        """ "create", "exec" or "create_container" it. Raises ProvisionError, stage "create"."""
        machine = self.supervisor.start(
            operation, spec.name, arguments, events, spec.boot_timeout, limits=spec.limits
        )
        machine.facts = {**machine.facts, **access.facts}
        if access.bridge:
            machine.within = self.in_network([])
        return machine

    def disks(self, spec: GuestSpec) -> list[dict[str, Any]]:
        """All disks of a guest as the agent wants them, the root disk first."""
        root = [Disk(self.host.place(spec.image.disk), ROOT_DISK)] if spec.root == "disk" else []
        return [self.disk(disk) for disk in (*root, *spec.disks)]

    def disk(self, disk: Disk) -> dict[str, Any]:
        """A disk as the agent wants it."""
        return {**asdict(disk), "overlay": self.host.scratch() if disk.overlay else ""}

    def capabilities(self) -> Mapping[str, int]:
        return dict(self.supervisor.request("capabilities"))

    def watch(self, callback: OnUtilization) -> None:
        self.supervisor.watch(callback)

    def close(self) -> None:
        self.supervisor.close()
