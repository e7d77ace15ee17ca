"""Machines that the agent runs: of the built-in VMM, of other VMM processes, and containers."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from harness.agent.overhead import OverheadCorrectedCounters
from harness.agent.placeholders import contains_placeholder
from harness.errors import HarnessError, ProvisionError, hide_frames
from harness.hypervisors.agent_client import AgentClient, GuestConnection
from harness.hypervisors.base import Events
from harness.hypervisors.capabilities import (
    Monitor,
    SupportsBalloon,
    SupportsCgroup,
    SupportsDirtyPages,
    SupportsExitLimit,
    SupportsIntrospection,
    SupportsMonitor,
    SupportsSnapshot,
)
from harness.hypervisors.qmp_bridge import QmpBridge
from harness.ssh.process import Stream

__tracebackhide__ = hide_frames
PAYLOAD_TIMEOUT = 30.0  # seconds to create one; on an idle host it takes milliseconds
_POLL_INTERVAL = 0.02  # seconds, for a guest that prepares its snapshot
_SNAPSHOT_TIMEOUT = 120.0
_DIRTY_PAGES_TIMEOUT = 2.0  # a clone that is ready waits for the answer
_KILL_TIMEOUT = 1.0
_KVM_STATISTICS = [{"provider": "kvm"}]  # of query-stats


class SupervisedMachine(SupportsCgroup):
    """See harness.hypervisors.base.Machine.

    network_command: the start of a command line that runs a command in the guest's network.
    """

    network_command: Sequence[str] = ()
    facts: Mapping[str, Any]

    def __init__(self, agent: AgentClient, guest: str, connection: GuestConnection) -> None:
        self._agent = agent
        self._guest = guest
        self._connection = connection
        self.facts = {}

    def close(self) -> None:
        """Release what the controller holds of a machine that has ended. Idempotent."""
        self._agent.disconnect(self._guest)

    @property
    def ended(self) -> bool:
        return self._connection.ended

    @property
    def cgroup(self) -> str:
        """See SupportsCgroup."""
        return str(self.facts.get("cgroup") or "")

    def connect(self, port: int, timeout: float) -> Stream:
        """See Machine."""
        host, cid = self._agent.host, int(self.facts["cid"])
        if cid:
            return host.connect_vsock(cid, port, timeout)
        address = str(self.facts["address"])
        return host.connect_tcp(address, port, timeout, self.network_command)

    def statistics(self) -> dict[str, int]:
        """See Machine."""
        return dict(self._agent.request("stats", self._guest))

    def stop(self, timeout: float = 5.0) -> None:
        """See Machine. Raises HarnessError (stage "teardown") when its process does not end."""
        exited = self._connection.exited
        if not exited.is_set():
            with contextlib.suppress(HarnessError):  # it may end by itself at this moment
                self._agent.request("stop", self._guest, timeout=timeout)
            if not exited.wait(timeout):
                with contextlib.suppress(HarnessError):
                    self._agent.request("kill", self._guest, timeout=timeout)
                if not exited.wait(timeout):
                    raise HarnessError(
                        f"the VMM process {self.facts.get('pid')} does not end, even by SIGKILL",
                        hint=f"look at it on {self._agent.host.name}: ps, dmesg",
                        stage="teardown",
                        guest=self._guest,
                    )
        self.close()


class BuiltInMachine(
    SupervisedMachine,
    SupportsIntrospection,
    SupportsSnapshot,
    SupportsDirtyPages,
    SupportsBalloon,
    SupportsExitLimit,
):
    """A machine of the built-in VMM."""

    def ask(self, operation: str, **arguments: Any) -> Any:
        """See SupportsIntrospection."""
        return self._agent.request(operation, self._guest, arguments)

    def balloon(self, mib: int | None = None) -> dict[str, int]:
        """See SupportsBalloon."""
        if not any(name.startswith("virtio-balloon") for name in self.facts.get("devices", ())):
            raise HarnessError(
                "the machine has no balloon",
                hint='leave vmm={"balloon": False} out',
                guest=self._guest,
            )
        return dict(self.ask("balloon", **({} if mib is None else {"mib": mib})))

    def limit_exits(self, limit: int) -> None:
        """See SupportsExitLimit."""
        self.ask("limit_exits", limit=limit)

    def snapshot(self, folder: str) -> int:
        """See SupportsSnapshot. The guest prepares itself first; it is paused while the files are
        written."""
        self.ask("prepare_snapshot")
        while not self.ask("snapshot_ready"):
            time.sleep(_POLL_INTERVAL)
        files = {name: f"{folder}/{name}" for name in ("memory", "state")}
        request = self._agent.request
        result = request("snapshot", self._guest, {}, _SNAPSHOT_TIMEOUT, files=files)
        return int(result["bytes"])

    def private_dirty_pages(self, folder: str) -> list[int]:
        """See SupportsDirtyPages, and harness/agent/private_dirty_pages.py."""
        arguments = {"path": f"{folder}/memory"}
        request = self._agent.request
        return list(request("private_dirty_pages", self._guest, arguments, _DIRTY_PAGES_TIMEOUT))


class QmpMachine(SupervisedMachine, SupportsMonitor):
    """A machine of another VMM that has a QMP monitor."""

    def __init__(self, agent: AgentClient, guest: str, connection: GuestConnection) -> None:
        super().__init__(agent, guest, connection)
        self._bridge = QmpBridge(lambda text: agent.request("monitor", guest, {"text": text}))
        connection.on_monitor = self._bridge.receive
        self._counters = OverheadCorrectedCounters(super().statistics)

    @property
    def monitor(self) -> Monitor:
        """See SupportsMonitor."""
        return self._bridge.monitor

    def statistics(self) -> dict[str, int]:
        """See Machine."""
        if not self._has_query_stats:
            return super().statistics()
        return self._counters.read(self._kvm_statistics)

    def _kvm_statistics(self) -> dict[str, int]:
        """KVM's counters, summed over VM and vCPUs."""
        counters: Counter[str] = Counter()
        for target in ("vm", "vcpu"):
            providers = _KVM_STATISTICS
            for result in self.monitor.execute("query-stats", target=target, providers=providers):
                for stat in result["stats"]:
                    name, value = stat["name"], stat["value"]
                    if type(value) is int:  # neither a histogram nor a truth value
                        counters[name] += value
        return counters

    @cached_property
    def _has_query_stats(self) -> bool:
        """QEMU has the command since version 7.1."""
        commands = self.monitor.execute("query-commands")
        return any(command["name"] == "query-stats" for command in commands)

    def close(self) -> None:
        """See SupervisedMachine."""
        super().close()
        self._bridge.close()


def _machine_class(operation: str, arguments: Mapping[str, Any]) -> type[SupervisedMachine]:
    if operation in ("create", "restore"):
        return BuiltInMachine
    if operation == "exec" and contains_placeholder(
        "{monitor}",
        arguments["argv"],
        arguments.get("environment", {}),
        arguments.get("files", {}),
    ):
        return QmpMachine
    return SupervisedMachine


def start_machine(
    agent: AgentClient,
    operation: str,
    guest: str,
    arguments: Mapping[str, Any],
    events: Events,
    *,
    timeout: float,
    limits: Mapping[str, Any] | None = None,
) -> SupervisedMachine:
    """A machine by one of the agent's operations "create", "restore", "exec" and
    "create_container". timeout: seconds. limits: of its cgroup.

    Raises ProvisionError (stage "create").
    """
    connection = agent.connect(guest, events)
    machine = _machine_class(operation, arguments)(agent, guest, connection)
    try:
        machine.facts = agent.request(operation, guest, arguments, timeout, limits=limits)
    except HarnessError as error:
        if not connection.exited.wait(_KILL_TIMEOUT):
            with contextlib.suppress(HarnessError):
                agent.request("kill", guest)
        machine.close()
        raise ProvisionError(error.cause, hint=error.hint, stage="create", guest=guest) from None
    return machine
